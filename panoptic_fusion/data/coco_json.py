"""Reads the two JSON files of a dataset, COCO panoptic and COCO instances, with all checks that need no pixels."""

from __future__ import annotations

import contextlib
import gc
import json
import math
import os
import reprlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import one_line
from .dataset_errors import DatasetError, Report, raise_error
from .image_header import check_regular_file
from .label_space import LabelSpace

MAX_SEGMENT_ID = 256**3 - 1
MAX_PATH = 2000  # bytes of a file name with its folders; a system allows 4096 with the folder that it is in
MAX_COORDINATE = 2**20  # pixels; pycocotools uses fixed-size integers and crashes on much larger values


@dataclass(frozen=True)
class PanopticJson:
    """Content of a COCO panoptic JSON.

    `images`: image id -> its entry (file_name, height, width ...). `annotations`: image id -> its entry (file_name,
    segments_info with ids and category ids as in the JSON). Invalid entries are left out of both.
    """

    label_space: LabelSpace | None
    images: dict[Any, dict[str, Any]]
    annotations: dict[Any, dict[str, Any]]


@contextlib.contextmanager
def paused_gc() -> Iterator[None]:
    """Pauses Python's search for reference cycles, which takes half of the time that creates millions of objects."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@paused_gc()
def read_json(path: str, lists: tuple[str, ...], report: Report = raise_error) -> dict[str, list]:
    """Reads a JSON whose top level is an object with the given lists; reports each missing list."""
    try:
        data = load_json(path)
    except DatasetError as error:
        report(error)
        return {}
    return lists_of(data, path, lists, report)


def load_json(path: str) -> Any:
    """Reads a JSON file in UTF-8, with or without a byte order mark, or UTF-16.

    Raises:
        DatasetError: the file is missing or cannot be read.
    """
    try:
        check_regular_file(path, "missing file")
        with open(path, "rb") as file:
            return json.loads(file.read())
    except FileNotFoundError:
        raise DatasetError("the file is missing", path, "missing file") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise DatasetError(f"not a readable JSON ({one_line(error)})", path, "corrupt json") from None


def lists_of(data: Any, path: str, lists: tuple[str, ...], report: Report = raise_error) -> dict[str, list]:
    """Returns the given lists of a JSON's top-level object; reports each missing list."""
    if not isinstance(data, dict):
        report(DatasetError("not a COCO JSON: the top level must be an object", path, "corrupt json"))
        return {}
    found = {}
    for key in lists:
        if isinstance(data.get(key), list):
            found[key] = data[key]
        else:
            report(DatasetError(f"the JSON has no list {key!r}", path, "missing list in json"))
    return found


@paused_gc()
def read_panoptic_json(path: str, report: Report = raise_error) -> PanopticJson:
    """Reads and checks a COCO panoptic JSON; raises (or reports) DatasetError.

    An image with an empty segments_info is valid: it is entirely void. An image without an annotation is reported,
    which does nothing by default; it is in `images` but not in `annotations`. A JSON without any annotated image is an
    error.
    """
    data = read_json(path, ("categories", "images", "annotations"), report)
    label_space = None
    if "categories" in data:
        try:
            label_space = LabelSpace.from_categories(data["categories"])
        except ValueError as error:
            report(DatasetError(str(error), path, "bad category"))
    images = _check_images(data.get("images", ()), path, report)
    listed = _ids(data["images"]) if "images" in data else None
    category_ids = set(label_space.contiguous_ids()) if label_space else None
    annotations: dict[Any, dict[str, Any]] = {}
    for index, entry in enumerate(data.get("annotations", ())):
        fault = _annotation_fault(entry)
        if fault:
            report(DatasetError(f"annotations[{index}] {fault}", path, "bad annotation entry"))
        elif entry["image_id"] in annotations:
            text = f"image id {entry['image_id']!r} has two annotations, the second one is {entry['file_name']!r}"
            report(DatasetError(text, path, "duplicate annotation"))
        else:
            if listed is not None and entry["image_id"] not in listed:
                text = f"annotation {entry['file_name']!r} is for image id {entry['image_id']!r}, which is not listed"
                report(DatasetError(text, path, "annotation without image"))
            segments = _check_segments(entry, label_space, category_ids, path, report)
            annotations[entry["image_id"]] = {**entry, "segments_info": segments}
    if "annotations" in data:
        annotated = _ids(data["annotations"], "image_id")
        for image_id, entry in images.items():
            if image_id not in annotated:
                text = (
                    f"image {entry['file_name']!r} (id {image_id!r}) has no annotation and is left out; if it shows no "
                    "thing, DATASETS.UNANNOTATED negatives trains on it as such"
                )
                report(DatasetError(text, path, "image without annotation"))
        if listed is not None and not annotated & listed:
            text = f"none of its {len(listed)} images has an annotation" if listed else "the list of images is empty"
            report(DatasetError(f"{text}; check how this JSON was written", path, "no image"))
    _check_shared_files(images, annotations, path, report)
    return PanopticJson(label_space, images, annotations)


def read_predictions_json(path: str, category_ids: set[int], report: Report = raise_error) -> dict[Any, dict[str, Any]]:
    """Reads and checks a model's predictions in COCO panoptic format; only `annotations` is required.

    Returns image id -> its entry (file_name of the PNG, segments_info with id and category_id). Invalid entries are
    left out, as are segments whose category is not in `category_ids`.

    Raises:
        DatasetError: if the file is not a JSON with a list `annotations`, or, by default, at the first invalid entry.
    """
    found: dict[Any, dict[str, Any]] = {}
    for index, entry in enumerate(read_json(path, ("annotations",))["annotations"]):
        fault = _annotation_fault(entry)
        if fault:
            report(DatasetError(f"annotations[{index}] {fault}", path, "bad annotation entry"))
        elif entry["image_id"] in found:
            report(DatasetError(f"image id {entry['image_id']!r} has two predictions", path, "duplicate annotation"))
        else:
            segments = _check_segments(entry, None, category_ids, path, report)
            segments = [segment for segment in segments if segment["category_id"] in category_ids]
            found[entry["image_id"]] = {**entry, "segments_info": segments}
    return found


@paused_gc()
def read_instances_json(
    path: str, images: Mapping[Any, Mapping[str, Any]], label_space: LabelSpace, report: Report = raise_error
) -> dict[Any, list[dict[str, Any]]]:
    """Reads and checks a COCO instances JSON against the images and the thing classes of the panoptic JSON.

    Returns image id -> list of its entries as in the JSON (category ids included); invalid entries are left out.
    """
    data = read_json(path, ("annotations",), report)
    thing_ids = set(label_space.thing_ids)
    found: dict[Any, list[dict[str, Any]]] = {}
    seen = set()
    for index, entry in enumerate(data.get("annotations", ())):
        fault = _instance_fault(entry)
        if fault:
            report(DatasetError(f"annotations[{index}] {fault}", path, "bad instance entry"))
            continue
        name = f"annotations[{index}] (id {entry.get('id')!r})"
        if entry["id"] in seen:
            report(DatasetError(f"{name}: the id occurs twice", path, "duplicate instance id"))
        seen.add(entry["id"])
        image = images.get(entry["image_id"])
        if image is None:
            text = f"{name} is for image id {entry['image_id']!r}, which the panoptic JSON does not list"
            report(DatasetError(text, path, "instance without image"))
        elif entry["category_id"] not in thing_ids:
            what = "a stuff category" if entry["category_id"] in label_space.stuff_ids else "no category"
            text = f"{name}: category {entry['category_id']} is {what} of the panoptic JSON; instances are things"
            report(DatasetError(text, path, "instance of unknown category"))
        elif _rle_size(entry["segmentation"]) not in (None, (image["height"], image["width"])):
            height, width = _rle_size(entry["segmentation"])
            text = f"{name}: the mask is {width}x{height}, its image {image['width']}x{image['height']}"
            report(DatasetError(text, path, "instance of wrong size"))
        else:
            found.setdefault(entry["image_id"], []).append(entry)
    return found


def read_images_json(path: str, report: Report = raise_error) -> dict[Any, dict[str, Any]]:
    """Reads the `images` of a COCO JSON: image id -> its entry. Invalid entries are reported and left out."""
    return _check_images(read_json(path, ("images",), report).get("images", []), path, report)


def images_of(data: Any, path: str, report: Report = raise_error) -> dict[Any, dict[str, Any]]:
    """Returns the `images` of a JSON that was read with `load_json`, like `read_images_json`."""
    return _check_images(lists_of(data, path, ("images",))["images"], path, report)


def result_fault(
    entry: Any, image: Mapping[str, Any], category_ids: Collection[int], numbers: Sequence[str] = ()
) -> str | None:
    """Returns the error in an entry of a COCO result JSON, or None.

    Args:
        entry: value from the JSON; valid with category_id, an RLE or polygons in `segmentation`, and `numbers`.
        image: entry of its image, with height and width.
        category_ids: allowed category ids.
        numbers: keys of the numbers that the entry needs, such as "score".
    """
    if not isinstance(entry, dict):
        return "is not an object"
    if not is_integer(entry.get("category_id")) or entry["category_id"] not in category_ids:
        return f"has the category_id {entry.get('category_id')!r}, which is not one of the categories for it"
    for key in numbers:
        if not is_number(entry.get(key)):
            return f"needs {key} as a number, not {entry.get(key)!r}"
    fault = _segmentation_fault(entry.get("segmentation"))
    if fault is None and _rle_size(entry["segmentation"]) not in (None, (image["height"], image["width"])):
        height, width = entry["segmentation"]["size"]
        fault = f"has a mask of {width}x{height}, but its image is {image['width']}x{image['height']}"
    return fault


def _ids(entries: list, key: str = "id") -> set:
    return {e[key] for e in entries if isinstance(e, dict) and isinstance(e.get(key), int | str)}


def is_integer(value: Any) -> bool:
    """Returns whether a JSON value is an integer; 3.0 and true are not."""
    return type(value) is int  # a parser returns no subclasses except bool


def _is_id(value: Any) -> bool:
    return is_integer(value) or isinstance(value, str)


def _is_file_name(value: Any) -> bool:
    """Returns whether a JSON value is text that a file system can store, in parts of up to 255 bytes."""
    try:
        name = os.fsencode(value) if isinstance(value, str) else b""
    except UnicodeEncodeError:
        return False
    return 0 < len(name) <= MAX_PATH and b"\0" not in name and max(map(len, name.split(b"/"))) <= 255


def _check_images(entries: list, path: str, report: Report) -> dict[Any, dict[str, Any]]:
    images: dict[Any, dict[str, Any]] = {}
    for index, entry in enumerate(entries):
        fault = _image_fault(entry)
        if fault:
            report(DatasetError(f"images[{index}] {fault}", path, "bad image entry"))
        elif entry["id"] in images:
            text = f"image id {entry['id']!r} occurs twice, the second time for {entry['file_name']!r}"
            report(DatasetError(text, path, "duplicate image id"))
        else:
            images[entry["id"]] = entry
    return images


def _check_shared_files(
    images: Mapping[Any, Mapping[str, Any]], annotations: Mapping[Any, Mapping[str, Any]], path: str, report: Report
) -> None:
    """Reports images that are listed twice, and distinct images that share one PNG (such as a.jpg and a.png)."""
    first_image: dict[str, Any] = {}
    first_png: dict[str, str] = {}
    for image_id, image in images.items():
        name = image["file_name"]
        if first_image.setdefault(name, image_id) != image_id:
            text = f"image {name!r} is listed twice, with ids {first_image[name]!r} and {image_id!r}"
            report(DatasetError(text, path, "image listed twice"))
        png = annotations[image_id]["file_name"] if image_id in annotations else None
        if png is not None and first_png.setdefault(png, name) != name:
            text = f"images {first_png[png]!r} and {name!r} share the PNG {png!r}; give each image its own PNG"
            report(DatasetError(text, path, "shared PNG"))


def _image_fault(entry: Any) -> str | None:
    if not isinstance(entry, dict):
        return "is not an object"
    if not _is_id(entry.get("id")):
        return f"needs an id (integer or text), not {entry.get('id')!r}"
    if not _is_file_name(entry.get("file_name")):
        return f"(id {entry['id']!r}) needs a file_name, not {reprlib.repr(entry.get('file_name'))}"
    for key in ("height", "width"):
        if not is_integer(entry.get(key)) or not 0 < entry[key] <= MAX_COORDINATE:
            return f"({entry['file_name']!r}) needs {key} as an integer in 1..{MAX_COORDINATE}, not {entry.get(key)!r}"
    return None


def _annotation_fault(entry: Any) -> str | None:
    if not isinstance(entry, dict):
        return "is not an object"
    if not _is_id(entry.get("image_id")):
        return f"needs an image_id (integer or text), not {entry.get('image_id')!r}"
    if not _is_file_name(entry.get("file_name")):
        name = reprlib.repr(entry.get("file_name"))
        return f"(image id {entry['image_id']!r}) needs the file_name of a PNG, not {name}"
    if not isinstance(entry.get("segments_info"), list):
        return f"({entry['file_name']!r}) needs a list segments_info, not {type(entry.get('segments_info')).__name__}"
    return None


def _segment_fault(segment: Any) -> str | None:
    if not isinstance(segment, dict):
        return "is not an object"
    for key in ("id", "category_id"):
        if not is_integer(segment.get(key)):
            return f"needs {key} as an integer, not {segment.get(key)!r}"
    if not 0 <= segment["id"] <= MAX_SEGMENT_ID:
        return f"has id {segment['id']}; ids are 1..{MAX_SEGMENT_ID}"
    if segment.get("iscrowd", 0) not in (0, 1):
        return f"needs iscrowd as 0 or 1, not {segment['iscrowd']!r}"
    if "area" in segment and not (is_number(segment["area"]) and segment["area"] == int(segment["area"])):
        return f"needs area as an integer, not {segment['area']!r}"
    if "bbox" in segment and not _is_box(segment["bbox"]):
        return f"needs bbox as four numbers (x, y, width, height), not {segment['bbox']!r}"
    return None


def is_number(value: Any) -> bool:
    """Returns whether a JSON value is a number that fits into 64 bits; true, NaN, and infinity do not count."""
    return type(value) in (int, float) and -1e15 <= value <= 1e15


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(is_number, value))


def _check_segments(
    entry: dict[str, Any], label_space: LabelSpace | None, category_ids: set[int] | None, path: str, report: Report
) -> list[dict[str, Any]]:
    """Returns the valid segments of one annotation; reports all others."""
    segments: list[dict[str, Any]] = []
    seen: set[int] = set()

    def name(index: int) -> str:
        return f"{entry['file_name']!r}, segments_info[{index}]"

    for index, segment in enumerate(entry["segments_info"]):
        fault = _segment_fault(segment)
        if fault:
            report(DatasetError(f"{name(index)} {fault}", path, "bad segment entry"))
            continue
        if segment["id"] == 0:
            report(DatasetError(f"{name(index)} has id 0, which means void", path, "segment id 0"))
            continue
        if segment["id"] in seen:
            report(DatasetError(f"{name(index)}: id {segment['id']} occurs twice", path, "duplicate segment id"))
            continue
        seen.add(segment["id"])
        if category_ids is not None and segment["category_id"] not in category_ids:
            text = f"{name(index)} (id {segment['id']}): category {segment['category_id']} is not among the categories"
            report(DatasetError(text, path, "unknown category"))
        segments.append(segment)
    return segments


def _instance_fault(entry: Any) -> str | None:
    if not isinstance(entry, dict):
        return "is not an object"
    for key in ("id", "category_id"):
        if not is_integer(entry.get(key)):
            return f"needs {key} as an integer, not {entry.get(key)!r}"
    if not _is_id(entry.get("image_id")):
        return f"(id {entry['id']}) needs an image_id (integer or text), not {entry.get('image_id')!r}"
    if entry.get("iscrowd", 0) not in (0, 1):
        return f"(id {entry['id']}) needs iscrowd as 0 or 1, not {entry['iscrowd']!r}"
    if "bbox" in entry and not _is_box(entry["bbox"]):
        return f"(id {entry['id']}) needs bbox as four numbers (x, y, width, height), not {entry['bbox']!r}"
    fault = _segmentation_fault(entry.get("segmentation"))
    return f"(id {entry['id']}) {fault}" if fault else None


def _segmentation_fault(value: Any) -> str | None:
    if isinstance(value, list):
        for polygon in value:
            if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
                return "needs polygons of at least 3 points (x, y, x, y ...)"
            if not all(is_number(v) and abs(v) <= MAX_COORDINATE for v in polygon):
                return "needs polygons of at least 3 points (x, y, x, y ...)"
        return None if value else "has no polygon"
    if not isinstance(value, dict) or "counts" not in value or _rle_size(value) is None:
        return "needs a segmentation: polygons, or an RLE with size (height, width) and counts"
    counts = value["counts"]
    if isinstance(counts, list):
        if not all(is_integer(c) and c >= 0 for c in counts) or sum(counts) != math.prod(value["size"]):
            return "has an RLE whose counts do not add up to its size"
    elif not isinstance(counts, str) or rle_pixels(counts) != math.prod(value["size"]):
        return "has an RLE whose counts do not add up to its size"
    return None


def _rle_size(segmentation: Any) -> tuple[int, int] | None:
    """Returns (height, width) of an RLE; None for polygons and for anything that is not an RLE."""
    size = segmentation.get("size") if isinstance(segmentation, dict) else None
    if not isinstance(size, list) or len(size) != 2 or not all(is_integer(v) and v > 0 for v in size):
        return None
    return size[0], size[1]


def rle_pixels(counts: str) -> int:
    """Returns the number of pixels that a compressed RLE describes; -1 if it is not a compressed RLE.

    pycocotools reads and writes out of bounds if this is not height x width, so check before decoding. Each count is
    stored in 5-bit groups as characters 48..111, low group first. From the fourth count on, the stored value is the
    difference to the count two positions before.
    """
    lengths: list[int] = []
    value = shift = 0
    for char in counts:
        code = ord(char) - 48
        if not 0 <= code < 64:
            return -1
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            if shift > 60:
                return -1
            continue
        if code & 16:
            value -= 1 << shift
        if len(lengths) > 2:
            value += lengths[-2]
        if value < 0:
            return -1
        lengths.append(value)
        value = shift = 0
    return sum(lengths) if shift == 0 else -1

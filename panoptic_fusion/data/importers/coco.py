"""Reads COCO instances JSON (polygons, RLE and crowds), also from Roboflow and CVAT, with optional semantic PNGs.

All parts of an annotation form one object. A box without a segmentation is not a mask. Smaller shapes are in front,
because the format does not define an order. CVAT and datumaro write iscrowd 1 for every mask; if annotations have
CVAT's attribute `occluded`, such masks are objects.

Semantic PNGs are in a folder such as COCO-stuff's `stuffthingmaps`. They have the stem of the image, and category ids
as values (COCO-stuff: id - 1 for ids from 1, 255 is unlabeled). They are painted below the instances.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from functools import partial
from typing import Any

from ..coco_json import is_integer
from ..dataset_errors import DatasetError
from .encodings import decode_coco_rle
from .masks import check_points, check_size
from .pixels import ClassTable, class_shapes, find_class_table, find_maps, read_map
from .shapes import ClassInfo, Dataset, ImageAnnotation, Mask, Polygon, Shape, check_label
from .tree import Tree, read_json, split_of

NAME = "coco"
PIXEL_MAP_FOLDERS = ("stuffthingmaps", "stuff_pixelmaps", "pixelmaps", "semantic", "semantic_masks", "semantics")


def is_coco(content: Any) -> bool:
    """Returns whether parsed JSON is a COCO instances JSON."""
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        return False
    annotations = content.get("annotations")
    if not isinstance(annotations, list) or not isinstance(content.get("categories"), list):
        return False
    return not any(isinstance(a, dict) and ("segments_info" in a or "caption" in a) for a in annotations[:20])


def recognize(tree: Tree) -> bool:
    """Returns whether a tree of files has this format; see `formats`."""
    return any(map(is_coco, tree.samples(".json").values()))


def open_dataset(tree: Tree) -> Dataset:
    """Returns the dataset in a tree of files; see `formats`."""
    dataset = Dataset(NAME, {}, read, order="smaller-in-front", boxes="skip", objects="likely")
    classes: dict[str, ClassInfo] = {}
    maps = find_maps(tree, PIXEL_MAP_FOLDERS)
    for file in _choose(tree):
        path = str(tree.path(file))
        try:
            content = read_json(path)
        except DatasetError as error:
            dataset.faults.append(error)
            continue
        if is_coco(content):
            names = read_categories(dataset, classes, content["categories"], content["annotations"], path)
            _add_items(dataset, file, path, content, names, maps)
    dataset.classes = list(classes.values())
    if maps:
        table = find_class_table(tree) or ClassTable()
        offset = 1 if any("stuffthingmaps" in file for file in maps.values()) else 0
        dataset.read = partial(read_with_map, {c.id: c.name for c in dataset.classes}, table, offset)
        names = {c.name for c in dataset.classes}
        dataset.classes += [ClassInfo(c.name, False, c.color) for c in table.classes() if c.name not in names]
    return dataset


def read(item: dict[str, Any]) -> ImageAnnotation:
    """Builds the annotation of one image from its entries."""
    image, file = item["image"], item["file"]
    size = None
    if image.get("height") is not None or image.get("width") is not None:
        try:
            size = check_size(image.get("height"), image.get("width"))
        except ValueError as error:
            text = f"image {image['file_name']!r}: {error}. Correct its width and height."
            raise DatasetError(text, file, "bad image entry") from None
    name = str(image["file_name"])
    annotation = ImageAnnotation(file, [name, f"images/{name}"], size, split=item["split"])
    for entry in json.loads(item["entries"]):
        where = f"annotation id {entry.get('id')!r} of image {name!r}"
        with annotation.guard(where):
            label = item["names"][entry["category_id"]]
            crowd = entry.get("iscrowd", 0)
            if crowd not in (0, 1):
                raise ValueError(f"its iscrowd is {crowd!r}, not 0 or 1")
            attributes = entry.get("attributes")
            if crowd and isinstance(attributes, dict) and "occluded" in attributes:
                crowd = bool(attributes.get("is_crowd", False))
                annotation.notes["masks of CVAT with iscrowd 1 taken as objects"] += 1
            geometry, isbox = _geometry(entry)
            shape = Shape(label, geometry, f"{where} ({label})", crowd=bool(crowd), isbox=isbox)
            annotation.shapes.append(shape)
    return annotation


def read_with_map(names: dict[int, str], table: ClassTable, offset: int, item: dict[str, Any]) -> ImageAnnotation:
    """Adds the classes of a semantic PNG below the instances of an image, except classes that have instances."""
    annotation = read(item)
    if item["map"] is None:
        return annotation
    things = set(names.values())
    pixels = read_map(item["map"])
    if annotation.size is not None and pixels.shape[:2] != annotation.size:
        height, width = annotation.size
        size = f"{pixels.shape[1]}x{pixels.shape[0]}"
        text = f"the map is {size}, its image {width}x{height} in {item['file']}. Correct the wrong one of the two."
        raise DatasetError(text, item["map"], "wrong PNG size")

    def name_of(value: int) -> str | None:
        return table.name_of(value + offset) or names.get(value + offset)

    shapes = class_shapes(pixels, name_of, annotation, ignored=255)
    annotation.shapes = [shape for shape in shapes if shape.label not in things] + annotation.shapes
    annotation.more_files.append(item["map"])
    return annotation


def _choose(tree: Tree) -> list[str]:
    """Selects the JSON files to read: only those named instances..., if any, because others repeat their images."""
    files = tree.having(".json")
    named = [file for file in files if os.path.basename(file).lower().startswith("instances")]
    return named or files


def read_categories(
    dataset: Dataset, classes: dict[str, ClassInfo], entries: list, annotations: list, path: str
) -> dict[int, str]:
    """Adds the classes and returns {category id: name}, without Roboflow's unused parent category 0."""
    parents = {entry.get("supercategory") for entry in entries if isinstance(entry, dict)}
    used = Counter(a.get("category_id") for a in annotations if isinstance(a, dict) and is_id(a.get("category_id")))
    names: dict[int, str] = {}
    ids = {info.id for info in classes.values()}
    for index, entry in enumerate(entries):
        try:
            number, name = entry["id"], check_label(entry["name"])
            if not is_integer(number) or number < 0:
                raise ValueError(f"its id is {number!r}, not an integer from 0 on")
            if number in names:
                raise ValueError(f"its id {number} occurs twice")
        except (KeyError, TypeError, ValueError) as error:
            detail = f"has no {error}" if isinstance(error, KeyError) else str(error)
            text = f"categories[{index}]: {detail}. Correct it; its annotations are left out."
            dataset.faults.append(DatasetError(text, path, "bad category"))
            continue
        if number == 0 and not used[0] and name in parents:
            continue
        names[number] = name
        isthing = entry.get("isthing")
        if name not in classes:
            free = number if number not in ids else None
            ids.add(number)
            color = entry.get("color")
            valid = isinstance(color, list) and len(color) == 3 and all(is_integer(v) and 0 <= v < 256 for v in color)
            known = bool(isthing) if isthing in (0, 1) else None
            classes[name] = ClassInfo(name, known, tuple(color) if valid else None, free)
    return names


def read_images(dataset: Dataset, entries: list, path: str, *, named: bool = True) -> dict[Any, dict[str, Any]]:
    """Returns {id: image}; records a problem for each image that has no valid entry or an id that occurred before.

    Images of LVIS have a coco_url instead of a file_name; its last two parts become the file_name.

    Args:
        dataset: dataset that the problems are added to.
        entries: list `images` of a JSON.
        path: path of the JSON.
        named: whether each image needs a file_name.
    """
    images: dict[Any, dict[str, Any]] = {}
    what, types = ("an id and a file_name", str) if named else ("an id", str | None)
    for index, image in enumerate(entries):
        if isinstance(image, dict) and image.get("file_name") is None and isinstance(image.get("coco_url"), str):
            image = {**image, "file_name": "/".join(image["coco_url"].split("/")[-2:])}
        if not isinstance(image, dict) or not is_id(image.get("id")) or not isinstance(image.get("file_name"), types):
            text = f"images[{index}] needs {what}. Correct it; its annotations are left out."
            dataset.faults.append(DatasetError(text, path, "bad image entry"))
        elif image["id"] in images:
            name = image.get("file_name")
            text = f"image id {image['id']!r} occurs twice, the second time for {name!r}. Renumber it."
            dataset.faults.append(DatasetError(text, path, "duplicate image id"))
        else:
            images[image["id"]] = image
    return images


def _add_items(
    dataset: Dataset, file: str, path: str, content: dict[str, Any], names: dict[int, str], maps: dict[str, str]
) -> None:
    images = read_images(dataset, content["images"], path)
    entries: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for index, entry in enumerate(content["annotations"]):
        image_id = entry.get("image_id") if isinstance(entry, dict) else None
        if not is_id(image_id) or image_id not in images:
            text = f"annotations[{index}] is for image id {image_id!r}, which is not listed. Correct or remove it."
            dataset.faults.append(DatasetError(text, path, "annotation without image"))
        else:
            entries[image_id].append(entry)
    split = split_of(os.path.basename(file), os.path.dirname(file))
    for image_id, image in images.items():
        name = image["file_name"]
        stem = os.path.splitext(os.path.basename(name.replace("\\", "/")))[0]
        key = f"{file}: {name}"
        if key in dataset.items:
            text = f"image {name!r} is listed twice, the second time as id {image_id!r}. Remove one."
            dataset.faults.append(DatasetError(text, path, "duplicate image id"))
            continue
        dataset.items[key] = {
            "file": path,
            "image": image,
            "entries": json.dumps(entries.pop(image_id, [])).encode(),  # needs a tenth of the memory of lists
            "names": names,
            "split": split or split_of(os.path.dirname(name)),
            "map": maps.get(stem),
        }


def is_id(value: Any) -> bool:
    """Returns whether a JSON value can be the id of an image or category."""
    return isinstance(value, int | str) and not isinstance(value, bool)


def _geometry(entry: dict[str, Any]) -> tuple[Polygon | Mask, bool]:
    """Returns the geometry of an annotation, and whether it is only a box.

    Raises:
        ValueError, KeyError: the annotation is invalid.
    """
    value = entry.get("segmentation")
    if isinstance(value, dict):
        if "counts" not in value or not isinstance(value.get("size"), list):
            raise ValueError("its RLE needs size and counts")
        return Mask(partial(decode_coco_rle, value)), False
    if isinstance(value, list) and value:
        if all(isinstance(v, int | float) for v in value):
            value = [value]  # a single polygon that is not in a list
        return Polygon([[check_points(part, 3)] for part in value]), False
    if value not in (None, []):
        raise ValueError(f"its segmentation is of type {type(value).__name__}, not polygons or an RLE")
    x, y, w, h = check_points(entry["bbox"]).ravel().tolist()
    return Polygon([[check_points([x, y, x + w, y, x + w, y + h, x, y + h])]]), True

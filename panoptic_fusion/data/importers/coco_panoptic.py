"""Reads COCO panoptic JSON and PNGs and repairs errors in them; also reads Mapillary Vistas' own panoptic files.

These errors are repaired and reported: gray and palette PNGs whose values are ids, PNGs with alpha, areas and boxes
(recomputed), several segments of a stuff class, crowd stuff, ids in the PNG without a segment (void), segments without
pixels, a missing isthing (proposed), a size in the JSON that differs from image and PNG, image ids that are text. A PNG
whose size differs from its image is rejected.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ..dataset_errors import DatasetError
from .coco import read_categories, read_images
from .pixels import color_values, mask_shape, read_map
from .shapes import ClassInfo, Dataset, ImageAnnotation
from .tree import Tree, read_json, split_of

NAME = "coco-panoptic"


def is_panoptic(content: Any) -> bool:
    """Returns whether parsed JSON is a COCO panoptic JSON."""
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        return False
    return any(isinstance(a, dict) and "segments_info" in a for a in content["annotations"][:20])


def recognize(tree: Tree) -> bool:
    """Returns whether a tree of files has this format; see `formats`."""
    return any(map(is_panoptic, tree.samples(".json").values()))


def open_dataset(tree: Tree) -> Dataset:
    """Returns the dataset in a tree of files; see `formats`."""
    dataset = Dataset(NAME, {}, read, order="annotation", objects="certain", amodal=False)
    pngs: dict[str, list[str]] = {}
    for file in tree.files:
        if file.lower().endswith(".png"):
            pngs.setdefault(os.path.basename(file), []).append(file)
    classes: dict[str, ClassInfo] = {}
    for file in tree.having(".json"):
        path = str(tree.path(file))
        try:
            content = read_json(path)
        except DatasetError as error:
            dataset.faults.append(error)
            continue
        if not is_panoptic(content):
            continue
        segments = [s for a in content["annotations"] if isinstance(a, dict) for s in a.get("segments_info") or ()]
        names = read_categories(dataset, classes, content.get("categories") or [], segments, path)
        _add_items(dataset, tree, file, content, names, pngs)
    dataset.classes = list(classes.values())
    return dataset


def _add_items(
    dataset: Dataset,
    tree: Tree,
    file: str,
    content: dict[str, Any],
    names: dict[int, str],
    pngs: dict[str, list[str]],
) -> None:
    path = str(tree.path(file))
    entries = content["images"] if isinstance(content.get("images"), list) else []
    images = {str(number): image for number, image in read_images(dataset, entries, path, named=False).items()}
    split = split_of(os.path.basename(file), os.path.dirname(file))
    for index, entry in enumerate(content["annotations"]):
        image_id = entry.get("image_id") if isinstance(entry, dict) else None
        if not isinstance(entry, dict) or not isinstance(entry.get("segments_info"), list):
            text = f"annotations[{index}] has no segments_info. Correct or remove it."
            dataset.faults.append(DatasetError(text, path, "bad annotation entry"))
            continue
        image = images.get(str(image_id))
        if image is None and not isinstance(entry.get("file_name"), str):
            text = f"annotations[{index}] is for image id {image_id!r}, which is not listed. Correct or remove it."
            dataset.faults.append(DatasetError(text, path, "annotation without image"))
            continue
        image_name = str(image["file_name"]) if image and image.get("file_name") else str(entry.get("file_name"))
        png_name = str(entry.get("file_name") or os.path.splitext(os.path.basename(image_name))[0] + ".png")
        key = f"{file}: {image_name}"
        if key in dataset.items:
            text = f"image {image_name!r} has two annotations, the second one is annotations[{index}]. Remove one."
            dataset.faults.append(DatasetError(text, path, "duplicate annotation"))
            continue
        dataset.items[key] = {
            "file": path,
            "png": _find_png(tree, file, png_name, pngs),
            "png_name": png_name,
            "image_name": image_name,
            "segments": entry["segments_info"],
            "names": names,
            "split": split,
            "size": (image.get("height"), image.get("width")) if image else None,
        }


def _find_png(tree: Tree, file: str, name: str, pngs: dict[str, list[str]]) -> str | None:
    """Returns the PNG of an annotation: among PNGs of this name, the one whose folder matches the JSON best."""
    candidates = pngs.get(os.path.basename(name), [])
    if not candidates:
        return None
    stem = os.path.splitext(os.path.basename(file))[0]

    def fit(candidate: str) -> tuple[bool, bool, int]:
        parts = os.path.dirname(candidate).split("/")
        panoptic = any("panoptic" in part.lower() or "mask" in part.lower() for part in parts)
        return stem in parts, panoptic, len(os.path.commonprefix([candidate, file]))

    return str(tree.path(max(candidates, key=fit)))


def read(item: dict[str, Any]) -> ImageAnnotation:
    """Reads one annotation and its PNG."""
    file = item["file"]
    if item["png"] is None:
        raise DatasetError(f"the PNG {item['png_name']!r} was not found. Put it below the folder.", file, "missing PNG")
    pixels = read_map(item["png"])
    ids = color_values(pixels) if pixels.ndim == 3 else pixels.astype(np.int32)
    annotation = ImageAnnotation(item["png"], [item["image_name"], f"images/{item['image_name']}"], ids.shape)
    annotation.split, annotation.more_files = item["split"], [file]
    if pixels.ndim == 2:
        annotation.notes["PNGs that are not RGB read as ids"] += 1
    if item["size"] not in (None, ids.shape):
        annotation.notes["sizes in the JSON corrected to the size of PNG and image"] += 1
    found = set(np.unique(ids).tolist()) - {0}
    seen: set[int] = set()
    for index, segment in enumerate(item["segments"]):
        where = f"segments_info[{index}]"
        with annotation.guard(where):
            number = segment["id"]
            if not isinstance(number, int) or isinstance(number, bool):
                raise ValueError(f"its id is {number!r}, not an integer")
            if number in seen:
                raise ValueError(f"its id {number} occurs twice")
            seen.add(number)
            if segment["category_id"] not in item["names"]:
                raise ValueError(f"its category {segment['category_id']} is not listed")
            if number not in found:
                annotation.notes["segments without a pixel left out"] += 1
                continue
            name, crowd = item["names"][segment["category_id"]], bool(segment.get("iscrowd", 0))
            annotation.shapes.append(mask_shape(ids == number, name, f"{where} ({name})", crowd=crowd))
    missing = found - seen
    if missing:
        annotation.notes["ids of PNGs without a segment left void"] += len(missing)
    return annotation

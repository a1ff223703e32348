"""Reads V7 Darwin JSON 2.0 and 1.0, one file per image.

Polygons consist of paths, whose inner paths are holes; they are drawn with OpenCV. A raster layer stores the masks of
other annotations as runs of values along the rows. Lines, keypoints, skeletons and tags have no area. Later annotations
are in front, as in the tool's own masks.

Version 1 has `image` with the file name and the size instead of `item` with slots, and stores the inner paths of a
polygon as `additional_paths`, or all paths as a `complex_polygon`.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ..dataset_errors import DatasetError
from .encodings import decode_value_runs
from .masks import box_ring, check_points, check_size, ellipse_ring
from .pixels import mask_shape
from .shapes import Dataset, ImageAnnotation, Polygon, Shape, check_label
from .tree import Tree, read_json, split_of

NAME = "darwin"
NO_AREA = ("line", "keypoint", "skeleton", "tag", "cuboid", "string", "graph", "table", "eye", "simple_table")


def is_darwin(content: Any) -> bool:
    """Returns whether parsed JSON is Darwin JSON."""
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        return False
    item, image = content.get("item"), content.get("image")
    return isinstance(item, dict) and "slots" in item or isinstance(image, dict) and "filename" in image


def recognize(tree: Tree) -> bool:
    """Returns whether a tree of files has this format; see `formats`."""
    return any(map(is_darwin, tree.samples(".json").values()))


def open_dataset(tree: Tree) -> Dataset:
    """Returns the dataset in a tree of files; see `formats`."""
    items = {file: (str(tree.path(file)), split_of(os.path.dirname(file))) for file in tree.having(".json")}
    return Dataset(NAME, items, read)


def read(item: tuple[str, str]) -> ImageAnnotation:
    """Reads one file."""
    file, split = item
    content = read_json(file)
    if not is_darwin(content):
        text = "not a Darwin JSON (no item with slots, no image with filename). Move it away."
        raise DatasetError(text, file, "other json")
    item, slot = _image(content, file)
    size = None
    if slot.get("width") and slot.get("height"):
        size = check_size(slot["height"], slot["width"])
    stem = os.path.splitext(os.path.basename(file))[0]
    names = [str(item[key]) for key in ("name", "filename", "original_filename") if item.get(key)] or [stem]
    folder = str(item.get("path") or "").strip("/")
    annotation = ImageAnnotation(file, [f"{folder}/{names[0]}", *names] if folder else names, size, split=split)
    labels: dict[str, str] = {}
    for index, entry in enumerate(content["annotations"]):
        where = f"annotations[{index}]"
        with annotation.guard(where):
            label = check_label(entry["name"])
            if "raster_layer" in entry or entry.get("mask") == {}:
                labels[str(entry["id"])] = label
                continue
            without = [kind for kind in NO_AREA if kind in entry]
            if without:
                annotation.notes[f"shapes without an area left out ({without[0]})"] += 1
                continue
            isbox = not {"polygon", "complex_polygon", "ellipse"} & entry.keys()
            annotation.shapes.append(Shape(label, _geometry(entry), f"{where} ({label})", isbox=isbox))
    for index, entry in enumerate(content["annotations"]):
        if isinstance(entry, dict) and "raster_layer" in entry:
            with annotation.guard(f"annotations[{index}]"):
                annotation.shapes = (
                    _raster(entry["raster_layer"], labels, size, f"annotations[{index}]") + annotation.shapes
                )
    return annotation


def _image(content: dict[str, Any], file: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the part of a file that names its image and the part that has its size."""
    if "item" not in content:
        image = content["image"]
        isvideo = "frame_urls" in image or "frame_count" in image
        if isvideo or any(isinstance(entry, dict) and "frames" in entry for entry in content["annotations"]):
            raise DatasetError("it is of a video. Export its frames as images.", file, "other json")
        return image, image
    slots = content["item"]["slots"]
    if len(slots) != 1 or slots[0].get("type", "image") != "image":
        text = "videos and several slots are not supported. Export its images one by one, or remove it."
        raise DatasetError(text, file, "other json")
    return content["item"], slots[0]


def _geometry(entry: dict[str, Any]) -> Polygon:
    if "polygon" in entry or "complex_polygon" in entry:
        polygon = entry["polygon"] if "polygon" in entry else entry["complex_polygon"]
        paths = polygon["paths"] if "paths" in polygon else polygon["path"]
        if isinstance(paths[0], dict):
            paths = [paths]
        paths = [*paths, *(polygon.get("additional_paths") or ())]
        return Polygon([[check_points([[p["x"], p["y"]] for p in path], 3) for path in paths]], "opencv")
    if "ellipse" in entry:
        center, radius = entry["ellipse"]["center"], entry["ellipse"]["radius"]
        degrees = float(np.rad2deg(entry["ellipse"].get("angle", 0)))
        ring = ellipse_ring(center["x"], center["y"], radius["x"], radius["y"], degrees)
        return Polygon([[check_points(ring)]])
    if "bounding_box" in entry:
        box = entry["bounding_box"]
        return Polygon([[check_points(box_ring(box["x"], box["y"], box["x"] + box["w"], box["y"] + box["h"]))]])
    raise ValueError("it has no polygon, ellipse, bounding_box or mask")


def _raster(layer: dict[str, Any], labels: dict[str, str], size: tuple[int, int] | None, name: str) -> list[Shape]:
    """Returns the masks of a raster layer, one per annotation that it maps to a value."""
    if size is None:
        raise ValueError("the size of the image is missing in item.slots")
    values = decode_value_runs(layer["dense_rle"], *size)
    shapes = []
    for identity, value in layer["mask_annotation_ids_mapping"].items():
        if identity not in labels:
            raise ValueError(f"its mask {identity!r} is not an annotation of the file")
        label = labels[identity]
        shapes.append(mask_shape(values == value, label, f"{name}, mask {value} ({label})"))
    return shapes

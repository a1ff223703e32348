"""Reads labelme JSON, one file per image, from labelme 3 to 5, AnyLabeling and other tools that write it.

Polygons are drawn with Pillow, as in labelme's own converters. Shapes with the same label and group_id form one object.
A rectangle has two corners (or four points), a circle has its center and a point on the circle. A mask is a PNG of 0
and 1, placed at its first point. Lines and points have no area. The label __ignore__ leaves void pixels.
"""

from __future__ import annotations

import io
import os
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from ..dataset_errors import DatasetError
from .encodings import decode_base64
from .masks import Crop, box_ring, check_points, check_size, ellipse_ring
from .shapes import ClassInfo, Dataset, ImageAnnotation, Mask, Polygon, Shape, check_label
from .tree import Tree, read_json, read_text, split_of

NAME = "labelme"
NO_AREA = frozenset({"line", "linestrip", "point", "points"})


def is_labelme(content: Any) -> bool:
    """Returns whether parsed JSON is from labelme."""
    return isinstance(content, dict) and isinstance(content.get("shapes"), list) and "imagePath" in content


def recognize(tree: Tree) -> bool:
    """Returns whether a tree of files has this format; see `formats`."""
    return any(map(is_labelme, tree.samples(".json").values()))


def open_dataset(tree: Tree) -> Dataset:
    """Returns the dataset in a tree of files; see `formats`."""
    items = {}
    for file in tree.having(".json"):
        items[file] = (str(tree.path(file)), split_of(os.path.dirname(file)))
    labels = [file for file in tree.files if os.path.basename(file).lower() in ("labels.txt", "classes.txt")]
    classes: list[ClassInfo] = []
    if labels:
        names = (line.strip() for line in read_text(str(tree.path(labels[0]))).splitlines())
        classes = [ClassInfo(name) for name in dict.fromkeys(names) if name]
    return Dataset(NAME, items, read, classes, order="annotation")


def read(item: tuple[str, str]) -> ImageAnnotation:
    """Reads one file."""
    file, split = item
    content = read_json(file)
    if not is_labelme(content):
        raise DatasetError("not a labelme JSON (no shapes and imagePath). Move it away.", file, "other json")
    size = None
    if content.get("imageHeight") and content.get("imageWidth"):
        size = check_size(content["imageHeight"], content["imageWidth"])
    annotation = ImageAnnotation(file, [str(content["imagePath"] or "")], size, split=split)
    annotation.image_names.append(os.path.splitext(os.path.basename(file))[0])
    if content.get("imageData"):
        with annotation.guard("imageData", "remove it to use the image file"):
            annotation.image_bytes = decode_base64(content["imageData"])
    for index, entry in enumerate(content["shapes"]):
        name = f"shapes[{index}]"
        with annotation.guard(name):
            geometry = _geometry(entry)
            if geometry is None:
                annotation.notes[f"shapes without an area left out ({entry['shape_type']})"] += 1
                continue
            group = entry.get("group_id")
            if group is not None and not isinstance(group, int | float | str):
                raise ValueError(f"its group_id is {group!r}, not a number")
            label = check_label(entry["label"])
            annotation.shapes.append(Shape(label, geometry, f"{name} ({label})", group=group, isbox=_is_box(entry)))
    return annotation


def _is_box(entry: dict[str, Any]) -> bool:
    return entry.get("shape_type") == "rectangle"


def _geometry(entry: Any) -> Polygon | Mask | None:
    """Returns the geometry of a shape; None if it has no area. Raises various errors if the shape is invalid."""
    kind = entry.get("shape_type") or "polygon"
    if kind in NO_AREA:
        return None
    points = check_points(entry["points"])
    if kind == "mask":
        return Mask(partial(_decode_mask, entry["mask"], points))
    if kind == "circle":
        if len(points) != 2:
            raise ValueError(f"a circle has two points, not {len(points)}")
        radius = float(np.hypot(*(points[1] - points[0])))
        return Polygon([[ellipse_ring(*points[0], radius, radius)]], "pillow")
    if kind == "rectangle" and len(points) == 2:
        return Polygon([[box_ring(*points.min(0), *points.max(0))]], "pillow")
    if kind not in ("polygon", "rectangle", "rotation", "oriented_rectangle", "quadrilateral"):
        raise ValueError(f"the shape type {kind!r} is not known")
    return Polygon([[check_points(points, 3)]], "pillow")


def _decode_mask(data: str, points: np.ndarray, height: int, width: int) -> Crop:
    with Image.open(io.BytesIO(decode_base64(data))) as image:
        pixels = np.asarray(image)
    mask = pixels > 0 if pixels.ndim == 2 else pixels[..., :3].any(-1)
    left, top = np.round(points[0]).astype(int).tolist()
    return Crop(mask, top, left)

"""Reads Scalabel and BDD100K: a JSON list of frames with labels, or an object with `frames`.

A label's `rle` is preferred to its `poly2d`. "C" in the types of a polygon marks the control points of cubic Bezier
curves. All polygons of a label form one object; open polygons have no area. A box without a mask or polygon is not a
mask. Later labels are in front.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import numpy as np

from ..dataset_errors import DatasetError
from .encodings import decode_coco_rle
from .masks import check_points, check_size
from .shapes import ClassInfo, Dataset, ImageAnnotation, Mask, Polygon, Shape, check_label
from .tree import Tree, read_json, split_of

NAME = "scalabel"
CURVE_POINTS = 16


def frames_of(content: Any) -> list[Any]:
    """Returns the frames in parsed JSON; an empty list if it is not from Scalabel."""
    frames = content.get("frames") if isinstance(content, dict) else content
    if isinstance(content, dict) and frames is None and "name" in content:
        frames = [content]
    if not isinstance(frames, list):
        return []
    keys = ("category", "poly2d", "rle", "box2d")
    labels = [label for f in frames[:50] if isinstance(f, dict) and "name" in f for label in f.get("labels") or ()]
    return frames if any(isinstance(label, dict) and set(keys) & label.keys() for label in labels) else []


def recognize(tree: Tree) -> bool:
    """Returns whether a tree of files has this format; see `formats`."""
    return any(map(frames_of, tree.samples(".json").values()))


def open_dataset(tree: Tree) -> Dataset:
    """Returns the dataset in a tree of files; see `formats`."""
    dataset = Dataset(NAME, {}, read, boxes="skip")
    for file in tree.having(".json"):
        path = str(tree.path(file))
        try:
            content = read_json(path)
        except DatasetError as error:
            dataset.faults.append(error)
            continue
        frames = frames_of(content)
        if not frames:
            dataset.faults.append(DatasetError("no frames of Scalabel in it. Move it away.", path, "other json"))
        config = content.get("config") if isinstance(content, dict) else None
        size = config.get("imageSize") if isinstance(config, dict) else None
        for entry in (config.get("categories") or ()) if isinstance(config, dict) else ():
            if isinstance(entry, dict) and isinstance(entry.get("name"), str):
                isthing = entry.get("isThing")
                dataset.classes.append(ClassInfo(entry["name"], isthing if isinstance(isthing, bool) else None))
        split = split_of(os.path.basename(file), os.path.dirname(file))
        for index, frame in enumerate(frames):
            key = f"{file}: {frame.get('name')}" if isinstance(frame, dict) else f"{file}: frame {index}"
            if key in dataset.items:
                text = f"the frame {frame.get('name')!r} occurs twice. Remove one of the two."
                dataset.faults.append(DatasetError(text, path, "duplicate annotation"))
            else:
                dataset.items[key] = {"file": path, "frame": frame, "size": size, "split": split}
    return dataset


def read(item: dict[str, Any]) -> ImageAnnotation:
    """Reads one frame."""
    frame, file = item["frame"], item["file"]
    if not isinstance(frame, dict) or not isinstance(frame.get("name"), str):
        raise DatasetError("a frame has no name. Correct or remove it.", file, "bad image entry")
    labels = frame.get("labels") or []
    given = frame.get("size") or item["size"]
    size = check_size(given["height"], given["width"]) if isinstance(given, dict) else None
    for label in labels:
        if size is None and isinstance(label, dict) and isinstance(label.get("rle"), dict):
            size = check_size(*label["rle"]["size"])
    annotation = ImageAnnotation(file, [frame["name"]], size, split=item["split"])
    for index, entry in enumerate(labels):
        where = f"frame {frame['name']!r}, label {entry.get('id', index) if isinstance(entry, dict) else index}"
        with annotation.guard(where):
            label = check_label(entry["category"])
            attributes = entry.get("attributes") or {}
            geometry, isbox = _geometry(entry)
            if geometry is None:
                annotation.notes["shapes without an area left out (open lines)"] += 1
                continue
            crowd = bool(attributes.get("crowd", False)) if isinstance(attributes, dict) else False
            annotation.shapes.append(Shape(label, geometry, f"{where} ({label})", crowd=crowd, isbox=isbox))
    return annotation


def _geometry(entry: dict[str, Any]) -> tuple[Polygon | Mask | None, bool]:
    """Returns the geometry of a label, or None if it has no area, and whether it is only a box."""
    if entry.get("rle"):
        return Mask(partial(decode_coco_rle, entry["rle"])), False
    if entry.get("poly2d"):
        closed = [part for part in entry["poly2d"] if part.get("closed", True)]
        parts = [[check_points(_outline(part["vertices"], part.get("types") or ""), 3)] for part in closed]
        return (Polygon(parts) if parts else None), False
    if entry.get("box2d"):
        x1, y1, x2, y2 = (float(entry["box2d"][key]) for key in ("x1", "y1", "x2", "y2"))
        return Polygon([[check_points([x1, y1, x2, y1, x2, y2, x1, y2])]]), True
    return None, False


def _outline(vertices: Any, types: str) -> np.ndarray:
    """Returns the points of an outline with sampled curves; two "C" vertices are control points between neighbors."""
    points = check_points(vertices, 3)
    outline: list[np.ndarray] = []
    index = 0
    t = np.linspace(0, 1, CURVE_POINTS + 1)[1:-1, None]
    while index < len(points):
        if types[index : index + 2] == "CC" and index > 0:
            a, b, c, d = points[index - 1], points[index], points[index + 1], points[(index + 2) % len(points)]
            curve = (1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * b + 3 * (1 - t) * t**2 * c + t**3 * d
            outline += list(curve)
            index += 2
        else:
            outline.append(points[index])
            index += 1
    return np.array(outline)

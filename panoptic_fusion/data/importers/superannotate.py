"""Reads SuperAnnotate vector projects: `<image>___objects.json` (older) or `<image>.json`, and classes/classes.json.

Polygons are flat lists of x and y; `exclude` contains the holes. Instances with the same class and groupId (other than
0) form one object. Templates, cuboids, points and lines have no area. Later instances are in front.
"""

from __future__ import annotations

import os
from typing import Any

from ..faults import DatasetError
from .masks import box_ring, check_points, check_size, ellipse_ring
from .shapes import ClassInfo, Dataset, ImageAnnotation, Polygon, Shape, check_label
from .tree import Tree, hex_color, read_json, split_of

NAME = "superannotate"
NO_AREA = frozenset({"template", "cuboid", "point", "polyline", "tag", "comment"})


def is_superannotate(content: Any) -> bool:
    """Returns whether parsed JSON is an annotation of SuperAnnotate."""
    return isinstance(content, dict) and "metadata" in content and isinstance(content.get("instances"), list)


def recognize(tree: Tree) -> bool:
    """Returns whether a tree of files has this format; see `formats`."""
    return any(map(is_superannotate, tree.samples(".json").values()))


def open_dataset(tree: Tree) -> Dataset:
    """Returns the dataset in a tree of files; see `formats`."""
    dataset = Dataset(NAME, {}, read)
    for file in tree.having(".json"):
        if os.path.basename(file) == "classes.json":
            entries = read_json(str(tree.path(file)))
            for entry in entries if isinstance(entries, list) else ():
                if isinstance(entry, dict) and isinstance(entry.get("name"), str):
                    dataset.classes.append(ClassInfo(entry["name"], color=hex_color(entry.get("color"))))
        elif os.path.basename(file) != "config.json":
            dataset.items[file] = (str(tree.path(file)), split_of(os.path.dirname(file)))
    dataset.classes = list({info.name: info for info in dataset.classes}.values())
    return dataset


def read(item: tuple[str, str]) -> ImageAnnotation:
    """Reads one file."""
    file, split = item
    content = read_json(file)
    if not is_superannotate(content):
        text = "not a SuperAnnotate annotation (no metadata and instances). Move it away."
        raise DatasetError(text, file, "other json")
    meta = content["metadata"]
    size = None
    if meta.get("width") and meta.get("height"):
        size = check_size(meta["height"], meta["width"])
    stem = os.path.basename(file).removesuffix(".json").removesuffix("___objects")
    annotation = ImageAnnotation(file, [str(meta.get("name") or stem), stem], size, split=split)
    for index, entry in enumerate(content["instances"]):
        where = f"instances[{index}]"
        with annotation.guard(where):
            kind = entry["type"]
            if kind in NO_AREA:
                annotation.notes[f"shapes without an area left out ({kind})"] += 1
                continue
            label = check_label(entry["className"])
            group = entry.get("groupId") or None
            shape = Shape(label, _geometry(kind, entry), f"{where} ({label})", group=group, isbox=kind == "bbox")
            annotation.shapes.append(shape)
    return annotation


def _geometry(kind: str, entry: dict[str, Any]) -> Polygon:
    points = entry.get("points")
    if kind in ("bbox", "rbbox") and "x4" in points:
        return Polygon([[check_points([[points[f"x{k}"], points[f"y{k}"]] for k in (1, 2, 3, 4)])]])
    if kind == "bbox":
        return Polygon([[check_points(box_ring(*(float(points[key]) for key in ("x1", "y1", "x2", "y2"))))]])
    if kind == "ellipse":
        numbers = [float(entry[key]) for key in ("cx", "cy", "rx", "ry")]
        return Polygon([[check_points(ellipse_ring(*numbers, float(entry.get("angle") or 0)))]])
    if kind != "polygon":
        raise ValueError(f"the type {kind!r} is not known")
    holes = [check_points(ring, 3) for ring in entry.get("exclude") or ()]
    return Polygon([[check_points(points, 3), *holes]])

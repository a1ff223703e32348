"""Reads SuperAnnotate: `<image>___objects.json`, `<image>___pixel.json` or `<image>.json`, and classes/classes.json.

Polygons are flat lists of x and y; `exclude` contains the holes. Instances with the same class and groupId (other than
0) form one object. Templates, cuboids, points and lines have no area. Later instances are in front.

In pixel projects, an instance has the colors of its `parts` in `<image>___save.png`. Files of the first versions are a
list of instances, with the metadata as the entry of type "meta".
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import numpy as np

from ..dataset_errors import DatasetError
from .masks import Crop, box_ring, check_points, check_size, ellipse_ring, tight_crop
from .pixels import color_values, read_map
from .shapes import ClassInfo, Dataset, ImageAnnotation, Mask, Polygon, Shape, check_label
from .tree import Tree, hex_color, read_json, split_of

NAME = "superannotate"
NO_AREA = frozenset({"template", "cuboid", "point", "polyline", "tag", "comment"})
KINDS = ("___objects", "___pixel")  # ends of the stems of annotation files


def is_superannotate(content: Any) -> bool:
    """Returns whether parsed JSON is an annotation of SuperAnnotate."""
    if isinstance(content, list):
        entries = [entry for entry in content if isinstance(entry, dict) and entry.keys() & {"type", "parts"}]
        return any("className" in entry for entry in entries)
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
    meta, instances = _parts(content)
    size = None
    if meta.get("width") and meta.get("height"):
        size = check_size(meta["height"], meta["width"])
    stem = os.path.basename(file).removesuffix(".json")
    for kind in KINDS:
        stem = stem.removesuffix(kind)
    annotation = ImageAnnotation(file, [str(meta.get("name") or stem), stem], size, split=split)
    colors = None
    if any(isinstance(entry, dict) and "parts" in entry for entry in instances):
        colors = _read_colors(os.path.join(os.path.dirname(file), f"{stem}___save.png"), annotation)
    for index, entry in enumerate(instances):
        where = f"instances[{index}]"
        with annotation.guard(where):
            kind = entry.get("type", "parts")
            if kind in NO_AREA:
                annotation.notes[f"shapes without an area left out ({kind})"] += 1
                continue
            label = check_label(entry["className"])
            group = entry.get("groupId") or None
            name = f"{where} ({label})"
            if "parts" in entry:
                geometry = Mask(partial(_decode_mask, colors, _part_colors(entry["parts"])))
            else:
                geometry = _geometry(entry["type"], entry)
            annotation.shapes.append(Shape(label, geometry, name, group=group, isbox=kind == "bbox"))
    return annotation


def _parts(content: Any) -> tuple[dict[str, Any], list[Any]]:
    """Returns the metadata and the instances of a file."""
    if isinstance(content, dict):
        return content["metadata"], content["instances"]
    metas = [entry for entry in content if isinstance(entry, dict) and entry.get("type") == "meta"]
    return next(iter(metas), {}), [entry for entry in content if entry not in metas]


def _read_colors(file: str, annotation: ImageAnnotation) -> np.ndarray:
    """Reads the colors of a pixel project as integers (H, W), see `color_values`; they have the size of the image."""
    pixels = read_map(file)
    annotation.more_files.append(file)
    if pixels.ndim != 3:
        raise DatasetError("the map has no colors. Export it again.", file, "corrupt PNG")
    if annotation.size not in (None, pixels.shape[:2]):
        height, width = annotation.size
        text = f"the map is {pixels.shape[1]}x{pixels.shape[0]}, its annotation {width}x{height}. Export it again."
        raise DatasetError(text, file, "wrong PNG size")
    annotation.size = pixels.shape[:2]
    return color_values(pixels)


def _part_colors(parts: list[dict[str, Any]]) -> np.ndarray:
    found = [hex_color(part["color"]) for part in parts]
    if None in found:
        raise ValueError(f"its part has the color {parts[found.index(None)]['color']!r}, not '#rrggbb'")
    return color_values(np.array(found).reshape(-1, 3))


def _decode_mask(colors: np.ndarray, chosen: np.ndarray, *_: int) -> Crop:
    return tight_crop(np.isin(colors, chosen))


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

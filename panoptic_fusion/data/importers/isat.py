"""Reads ISAT JSON, one file per image.

Objects with the same category and group form one instance; `layer` is the paint order. The category __background__ cuts
a hole into the shapes below it. Polygons are drawn with their outline.
"""

from __future__ import annotations

import os
from typing import Any

from ..dataset_errors import DatasetError
from .masks import check_points, check_size
from .shapes import ClassInfo, Dataset, ImageAnnotation, Polygon, Shape, check_label
from .tree import Tree, hex_color, read_json, read_yaml, split_of

NAME = "isat"


def is_isat(content: Any) -> bool:
    """Returns whether parsed JSON is from ISAT."""
    if not isinstance(content, dict) or not isinstance(content.get("objects"), list):
        return False
    info = content.get("info")
    return isinstance(info, dict) and {"name", "width", "height"} <= info.keys()


def recognize(tree: Tree) -> bool:
    """Returns whether a tree of files has this format; see `formats`."""
    return any(map(is_isat, tree.samples(".json").values()))


def open_dataset(tree: Tree) -> Dataset:
    """Returns the dataset in a tree of files; see `formats`."""
    items = {file: (str(tree.path(file)), split_of(os.path.dirname(file))) for file in tree.having(".json")}
    dataset = Dataset(NAME, items, read, order="z")
    for file in (f for f in tree.files if os.path.basename(f).lower() in ("isat.yaml", "isat.yml")):
        content = read_yaml(str(tree.path(file)))
        labels = content.get("label") if isinstance(content, dict) else None
        for entry in labels if isinstance(labels, list) else ():
            if isinstance(entry, dict) and isinstance(entry.get("name"), str):
                dataset.classes.append(ClassInfo(entry["name"], color=hex_color(entry.get("color"))))
        break
    return dataset


def read(item: tuple[str, str]) -> ImageAnnotation:
    """Reads one file."""
    file, split = item
    content = read_json(file)
    if not is_isat(content):
        raise DatasetError("not an ISAT JSON (no info and objects). Move it away.", file, "other json")
    info = content["info"]
    annotation = ImageAnnotation(file, [str(info["name"])], check_size(info["height"], info["width"]), split=split)
    if isinstance(info.get("folder"), str):
        annotation.image_names.append(f"{info['folder']}/{info['name']}")
    for index, entry in enumerate(content["objects"]):
        name = f"objects[{index}]"
        with annotation.guard(name):
            label = check_label(entry["category"])
            ring = check_points(entry["segmentation"], 3)
            annotation.shapes.append(
                Shape(
                    label,
                    Polygon([[ring]], "pillow"),
                    f"{name} ({label})",
                    z=float(entry.get("layer", index)),
                    group=str(entry["group"]) if entry.get("group") not in (None, "") else None,
                    crowd=bool(entry.get("iscrowd", 0)),
                )
            )
    return annotation

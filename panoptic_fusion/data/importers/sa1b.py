"""Reads Segment Anything's SA-1B: one JSON per image with RLE masks, which all get the class "object"."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from ..dataset_errors import DatasetError
from .encodings import decode_coco_rle
from .masks import check_size
from .shapes import Dataset, ImageAnnotation, Mask, Shape
from .tree import Tree, read_json, split_of

NAME = "sa1b"
CLASS = "object"


def is_sa1b(content: Any) -> bool:
    """Returns whether parsed JSON is an annotation of SA-1B."""
    return (
        isinstance(content, dict)
        and isinstance(content.get("image"), dict)
        and "file_name" in content["image"]
        and isinstance(content.get("annotations"), list)
    )


def recognize(tree: Tree) -> bool:
    """Returns whether a tree of files has this format; see `formats`."""
    return any(map(is_sa1b, tree.samples(".json").values()))


def open_dataset(tree: Tree) -> Dataset:
    """Returns the dataset in a tree of files; see `formats`."""
    items = {file: (str(tree.path(file)), split_of(os.path.dirname(file))) for file in tree.having(".json")}
    return Dataset(NAME, items, read, order="smaller-in-front", objects="certain")


def read(item: tuple[str, str]) -> ImageAnnotation:
    """Reads one file."""
    file, split = item
    content = read_json(file)
    if not is_sa1b(content):
        raise DatasetError("not an SA-1B annotation (no image and annotations). Move it away.", file, "other json")
    image = content["image"]
    size = check_size(image.get("height"), image.get("width"))
    annotation = ImageAnnotation(file, [str(image["file_name"])], size, split=split)
    for index, entry in enumerate(content["annotations"]):
        where = f"annotations[{index}]"
        with annotation.guard(where):
            mask = Mask(partial(decode_coco_rle, entry["segmentation"]))
            annotation.shapes.append(Shape(CLASS, mask, f"{where} (id {entry.get('id')})"))
    return annotation

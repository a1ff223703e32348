"""Reads instance PNGs: Cityscapes, KITTI, MOTS, or a folder of instance ids next to a folder of class values.

- Cityscapes (`*_instanceIds.png`): class, or class * 1000 + instance for values from 1000. A thing class without an
  instance is a crowd.
- KITTI (`instance` next to `image_2`): class * 256 + instance; instance 0 is the class without an instance.
- MOTS (`instances` with labels.txt): class * 1000 + instance; classes start at 1, in the order of the lines.
- `instances` (any ids, 0 means no instance) next to semantic maps with the same stems: the class of an instance is the
  most frequent class of its pixels.

Classes come from a table (see `pixels.TABLES`). Without a table, Cityscapes and KITTI use the classes of
cityscapesscripts, if it is installed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..dataset_errors import DatasetError
from .pixels import ClassTable, class_shapes, color_values, find_class_table, map_stem, mask_shape, read_map
from .semantic_png import is_map_folder
from .shapes import Dataset, ImageAnnotation, Shape
from .tree import Tree, split_of

NAME = "instance-masks"
_FOLDER = re.compile(r"instances?|instance_?ids|instance_?masks?|inst")
_CITYSCAPES = "_instanceids.png"


def _instance_files(tree: Tree) -> list[str]:
    def is_one(file: str) -> bool:
        parts = file.lower().split("/")
        return parts[-1].endswith(_CITYSCAPES) or any(map(_FOLDER.fullmatch, parts[:-1]))

    return [file for file in tree.having(".png") if is_one(file)]


def recognize(tree: Tree) -> bool:
    """Returns whether a tree of files has this format; see `formats`."""
    return bool(_instance_files(tree))


def open_dataset(tree: Tree) -> Dataset:
    """Returns the dataset in a tree of files; see `formats`."""
    files = _instance_files(tree)
    table = find_class_table(tree)
    named = [file for file in files if file.lower().endswith(_CITYSCAPES)]
    kitti = not named and any("image_2" in file.split("/") for file in tree.files)
    files = named or files
    semantic = {} if named or kitti else _semantic(tree, files)
    mots = not semantic and not kitti and not named
    if table is None and not semantic:
        if mots:
            text = "labels.txt with the classes, or semantic maps of the same names, are missing. Add one of them."
            raise DatasetError(text, str(tree.path(files[0])), "missing file")
        table = _cityscapes_table(str(tree.path(files[0])))
    items = {}
    for file in files:
        stem = map_stem(file)
        other = semantic.get((split_of(os.path.dirname(file)), stem))
        items[file] = {
            "file": str(tree.path(file)),
            "semantic": str(tree.path(other)) if other else None,
            "names": _image_names(tree, file, stem),
            "split": split_of(os.path.dirname(file)),
            "table": table,
            "factor": 256 if kitti else 1000,
            "groups": not mots,
            "first": 1 if mots and table is not None and 0 in table.by_value else 0,
            "free": bool(semantic),
        }
    classes = table.classes() if table else []
    if mots and table is not None:
        classes = [info for _, info in sorted(table.by_value.items())]
    return Dataset(NAME, items, read, classes, objects="certain", amodal=False)


def read(item: dict[str, Any]) -> ImageAnnotation:
    """Reads one instance map, and its semantic map if there is one."""
    file = item["file"]
    pixels = read_map(file)
    ids = color_values(pixels) if pixels.ndim == 3 else pixels.astype(np.int64)
    annotation = ImageAnnotation(file, item["names"], ids.shape, split=item["split"])
    if item["free"]:
        annotation.shapes = _with_semantic(ids, item, annotation)
        return annotation
    factor, table = item["factor"], item["table"]
    for value in np.unique(ids).tolist():
        alone = value < 1000 if factor == 1000 else value % factor == 0
        number = value if alone and factor == 1000 else value // factor
        if value == 0 and not item["groups"]:
            continue
        name = table.name_of(number - item["first"])
        if name is None:
            annotation.notes[f"pixels of class {number} without a name left void (images)"] += 1
            continue
        alone = alone and item["groups"]
        shape = mask_shape(ids == value, name, f"id {value} ({name})", semantic=alone, crowd=alone)
        annotation.shapes.append(shape)
    return annotation


def _with_semantic(ids: np.ndarray, item: dict[str, Any], annotation: ImageAnnotation) -> list[Shape]:
    if item["semantic"] is None:
        text = "the semantic map of the same name is missing. Add it."
        raise DatasetError(text, item["file"], "missing PNG")
    annotation.more_files.append(item["semantic"])
    classes = read_map(item["semantic"])
    if classes.shape[:2] != ids.shape:
        size = f"{classes.shape[1]}x{classes.shape[0]}"
        text = f"the map is {size}, its instances {ids.shape[1]}x{ids.shape[0]}. Export both again."
        raise DatasetError(text, item["semantic"], "wrong PNG size")
    table: ClassTable | None = item["table"]
    if classes.ndim == 3:
        classes = _values_of_colors(classes, table, item["semantic"])
    name_of = table.name_of if table is not None else lambda value: f"class_{value}" if value else None
    shapes = class_shapes(np.where(ids > 0, 255, classes), name_of, annotation, ignored=255)
    for number in np.unique(ids[ids > 0]).tolist():
        mask = ids == number
        name = name_of(int(np.bincount(classes[mask].ravel()).argmax()))
        if name is None:
            annotation.fault(f"instance {number}: its class has no name. Add it to the table.", "unknown category")
        else:
            shapes.append(mask_shape(mask, name, f"instance {number} ({name})"))
    return shapes


def _values_of_colors(pixels: np.ndarray, table: ClassTable | None, file: str) -> np.ndarray:
    values = color_values(pixels)
    if table is None or not table.by_color:
        if (pixels == pixels[..., :1]).all():
            return pixels[..., 0].astype(np.int64)
        text = "the map has colors, but no table says their classes. Add labelmap.txt with lines `name:r,g,b::`."
        raise DatasetError(text, file, "unknown category")
    result = np.full(values.shape, 255, np.int64)
    for number, info in table.by_value.items():
        if info.color is not None:
            result[values == sum(v << 8 * k for k, v in enumerate(info.color))] = number
    return result


def _semantic(tree: Tree, instances: Sequence[str]) -> dict[tuple[str, str], str]:
    """Returns {(split, stem): semantic map}, for maps outside the folders of the instances."""
    own = set(instances)
    files = (file for file in tree.having(".png") if file not in own and is_map_folder(os.path.dirname(file)))
    return {(split_of(os.path.dirname(file)), map_stem(file)): file for file in files}


def _image_names(tree: Tree, file: str, stem: str) -> list[str]:
    """Returns candidates for the image of a map, in place of the map's folder and under the names of the datasets."""
    folder, names = os.path.dirname(file), []
    for ours, theirs in (("gtFine", "leftImg8bit"), ("instance", "image_2"), ("instances", "images")):
        if ours in folder.split("/"):
            other = str(tree.path("/".join(theirs if part == ours else part for part in folder.split("/"))))
            names += [f"{other}/{stem}{end}" for end in ("_leftImg8bit.png", ".png", ".jpg", ".jpeg")]
    return [*names, f"{stem}_leftImg8bit.png", f"{stem}.jpg", stem]


def _cityscapes_table(file: str) -> ClassTable:
    try:
        from cityscapesscripts.helpers.labels import labels
    except ImportError:
        text = (
            "no table of classes (labels.txt, classes.json ...) was found. Add one, or pip install cityscapesscripts."
        )
        raise DatasetError(text, file, "missing file") from None
    table = ClassTable()
    for label in labels:
        if label.id > 0 and not label.ignoreInEval:
            table.add(label.id, label.name, tuple(label.color), bool(label.hasInstances))
    return table

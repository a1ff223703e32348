"""Reads semantic PNGs without instances: one map of class values, palette indices or colors per image; also CamVid.

A map belongs to the image with the same stem, without words such as _mask. Classes come from a table (see
`pixels.TABLES`; values in COCO-stuff's `stuffthingmaps` are its ids minus 1), or from the colors of CamVid for its
folders. Without a table, each value becomes a class named "class_<value>". All classes are stuff, because maps have no
instances. Classes in --things are split into connected components.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from ..dataset_errors import DatasetError
from .pixels import (
    ClassTable,
    class_shapes,
    color_values,
    find_class_table,
    is_background,
    map_stem,
    mask_shape,
    read_class_table,
    read_map,
)
from .shapes import Dataset, ImageAnnotation
from .tree import Tree, split_of

NAME = "masks"
IGNORED = 255
_MAP_FOLDER = re.compile(r"mask|stuff\w*maps|annot|label|segm|semantic|^gt|_gt$|ground.?truth|^seg$|^y$|labelled")
_NOT_MAPS = re.compile(r"instance|panoptic|expected|color|vis|overlay|preview")


def is_map_folder(folder: str) -> bool:
    """Returns whether a folder contains maps according to its path."""
    parts = folder.lower().split("/")
    return any(_MAP_FOLDER.search(part) for part in parts) and not any(_NOT_MAPS.search(part) for part in parts)


def find_pairs(tree: Tree) -> tuple[list[tuple[str, str]], list[str]]:
    """Returns pairs (image, map) matched by stem, for maps in map folders or with names such as x_mask.png.

    Also returns maps without an image that are next to maps with an image.
    """
    images: dict[str, list[str]] = {}
    maps = []
    for file in tree.images():
        stem = os.path.splitext(os.path.basename(file))[0]
        plain = map_stem(file)
        png = file.lower().endswith((".png", ".bmp", ".tif", ".tiff"))
        if png and (is_map_folder(os.path.dirname(file)) or plain != stem and not stem.lower().endswith("leftimg8bit")):
            maps.append((plain, file))
            continue
        if not is_map_folder(os.path.dirname(file)):
            for name in {stem, plain}:
                images.setdefault(name, []).append(file)
    pairs, alone = [], []
    for plain, file in sorted(maps, key=lambda entry: entry[1]):
        exact = os.path.splitext(os.path.basename(file))[0]
        candidates = images.get(exact) or images.get(plain) or []
        if candidates:
            split = split_of(os.path.dirname(file))
            same = [image for image in candidates if split_of(os.path.dirname(image)) == split]
            pairs.append(((same or candidates)[0], file))
        else:
            alone.append(file)
    folders = {os.path.dirname(file) for _, file in pairs}
    return pairs, [file for file in alone if os.path.dirname(file) in folders]


def recognize(tree: Tree) -> bool:
    """Returns whether a tree of files has this format; see `formats`."""
    return bool(find_pairs(tree)[0])


def open_dataset(tree: Tree) -> Dataset:
    """Returns the dataset in a tree of files; see `formats`."""
    pairs, alone = find_pairs(tree)
    table = find_class_table(tree)
    camvid = any(part.endswith("annot") for _, file in pairs for part in os.path.dirname(file).lower().split("/"))
    if table is None and camvid:
        table = read_class_table(str(Path(__file__).with_name("camvid_colors.csv")))
    if table is not None and any("stuffthingmaps" in file for _, file in pairs):
        table = ClassTable({value - 1: info for value, info in table.by_value.items()})  # 255 is unlabeled, 0 is not
    items = {
        file: {
            "file": str(tree.path(file)),
            "image": str(tree.path(image)),
            "split": split_of(os.path.dirname(file), os.path.dirname(image)),
            "table": table,
        }
        for image, file in pairs
    }
    faults = []
    for file in alone:
        text = "the image of this map was not found. Put it next to the others, or remove the map."
        faults.append(DatasetError(text, str(tree.path(file)), "missing image"))
    dataset = Dataset(NAME, items, read, table.classes() if table else [], amodal=False, faults=faults)
    if table is None:
        dataset.notes['no table of classes (labels.txt, labelmap.txt ...): classes are called "class_<value>"'] += 1
    return dataset


def read(item: dict[str, Any]) -> ImageAnnotation:
    """Reads one map."""
    file, table = item["file"], item["table"]
    pixels = read_map(file)
    annotation = ImageAnnotation(file, [item["image"]], pixels.shape[:2], split=item["split"])
    if pixels.ndim == 3:
        annotation.shapes = _of_colors(pixels, table, annotation)
    else:
        annotation.shapes = class_shapes(pixels, _namer(table, pixels), annotation, ignored=_ignored(table, pixels))
    return annotation


def _ignored(table: ClassTable | None, pixels: np.ndarray) -> int | None:
    """Returns 255, or None if it is a class or the only nonzero value, as in binary masks."""
    binary = table is None and not set(np.unique(pixels).tolist()) - {0, IGNORED}
    return None if binary or (table is not None and table.name_of(IGNORED)) else IGNORED


def _namer(table: ClassTable | None, pixels: np.ndarray) -> Any:
    if table is not None:
        return table.name_of
    if not set(np.unique(pixels).tolist()) - {0, IGNORED}:
        return {0: "background", IGNORED: "foreground"}.get
    return lambda value: f"class_{value}"


def _of_colors(pixels: np.ndarray, table: ClassTable | None, annotation: ImageAnnotation) -> list:
    """Makes one semantic shape per color; reads a gray map saved as RGB by value if the table has no colors."""
    if table is None or not table.by_color:
        if (pixels == pixels[..., :1]).all():
            gray = pixels[..., 0]
            return class_shapes(gray, _namer(table, gray), annotation, ignored=_ignored(table, gray))
        text = "the map has colors, but no table says their classes. Add labelmap.txt with lines `name:r,g,b::`."
        raise DatasetError(text, annotation.file, "unknown category")
    values = color_values(pixels)
    background = {info.name for value, info in table.by_value.items() if is_background(value, info.name)}
    shapes = []
    for key in np.unique(values).tolist():
        color = key & 255, key >> 8 & 255, key >> 16
        info = table.by_color.get(color)
        if info is None:
            count = int((values == key).sum())
            text = (
                f"the color {color} ({count} pixels) has no class in the table. Add it, or save the map without loss."
            )
            annotation.fault(text, "unknown category")
        elif info.name not in background:
            shapes.append(mask_shape(values == key, info.name, f"class {info.name}", semantic=True))
    return shapes

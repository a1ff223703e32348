"""Reads Pascal VOC segmentation, also from CVAT ("VOC 1.1", "Segmentation mask 1.1") and labelme's converter.

SegmentationClass contains classes and SegmentationObject instances, as palette indices or as colors of the label map.
The class of an instance is the most frequent class of its pixels. Class pixels outside all instances keep their class,
without an instance. 255, or its color (224, 224, 192), is void. Without SegmentationObject there are no instances.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ..dataset_errors import DatasetError
from .pixels import Color, color_values, find_class_table, is_background, mask_shape, read_map
from .shapes import ClassInfo, Dataset, ImageAnnotation
from .tree import Tree, read_text, split_of

NAME = "voc"
CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
BORDER = 255


def palette_color(index: int) -> Color:
    """Returns the VOC palette color of an index, whose bits are spread over the high bits of R, G and B."""
    color = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            color[channel] |= (index >> channel & 1) << (7 - bit)
        index >>= 3
    return tuple(color)


def recognize(tree: Tree) -> bool:
    """Returns whether a tree of files has this format; see `formats`."""
    return any("segmentationclass" in file.lower().split("/")[:-1] for file in tree.files)


def open_dataset(tree: Tree) -> Dataset:
    """Returns the dataset in a tree of files; see `formats`."""
    table = find_class_table(tree)
    if table is None:
        infos = [ClassInfo(name, color=palette_color(i)) for i, name in enumerate(CLASSES)]
    else:
        infos = [table.by_value.get(i, ClassInfo("")) for i in range(max(table.by_value) + 1)]
        infos = [ClassInfo(c.name, c.isthing, c.color or palette_color(i)) for i, c in enumerate(infos)]
    classes, objects = (_pngs(tree, folder) for folder in ("segmentationclass", "segmentationobject"))
    splits = _splits(tree)
    items = {}
    for stem, file in classes.items():
        instances = objects.get(stem)
        items[file] = {
            "file": str(tree.path(file)),
            "objects": str(tree.path(instances)) if instances else None,
            "stem": stem,
            "split": splits.get(stem, "") or split_of(os.path.dirname(file)),
            "names": [info.name for info in infos],
            "colors": [info.color for info in infos],
        }
    named = [info for i, info in enumerate(infos) if info.name and not is_background(i, info.name)]
    return Dataset(NAME, items, read, named, objects="certain" if objects else "unknown", amodal=False)


def read(item: dict[str, Any]) -> ImageAnnotation:
    """Reads the maps of one image."""
    file, names = item["file"], item["names"]
    values = _indices(read_map(file), item["colors"], file)
    annotation = ImageAnnotation(
        file, [f"../JPEGImages/{item['stem']}.jpg", item["stem"]], values.shape[:2], split=item["split"]
    )
    objects = np.zeros(values.shape, np.int32)
    if item["objects"] is not None:
        annotation.more_files.append(item["objects"])
        objects = read_map(item["objects"])
        if objects.shape[:2] != values.shape:
            size = f"{objects.shape[1]}x{objects.shape[0]}"
            text = f"the map is {size}, the class map is {values.shape[1]}x{values.shape[0]}. Export both again."
            raise DatasetError(text, item["objects"], "wrong PNG size")
        border = sum(v << 8 * k for k, v in enumerate((224, 224, 192)))
        objects = color_values(objects) if objects.ndim == 3 else objects.astype(np.int32)
        objects[(objects == BORDER if objects.max(initial=0) <= BORDER else objects == border)] = 0
    for number in np.unique(objects[objects != 0]).tolist():
        mask = (objects == number) & (values != BORDER)
        label = _name(values[mask], names)
        if label is not None:
            annotation.shapes.append(mask_shape(mask, label, f"object {number}"))
    rest = np.where(objects == 0, values, 0)
    for value in np.unique(rest).tolist():
        if value < len(names) and names[value] and not is_background(value, names[value]):
            name = names[value]
            annotation.shapes.append(mask_shape(rest == value, name, f"class {name}", semantic=True))
        elif value == BORDER:
            annotation.shapes.append(mask_shape(rest == value, "__ignore__", "border"))
        elif value >= len(names):
            text = f"the value {value} has no class: {len(names)} are listed. Add it to labelmap.txt."
            annotation.fault(text, "unknown category")
    return annotation


def _name(values: np.ndarray, names: list[str]) -> str | None:
    """Returns the class of an instance: the most frequent class of its pixels, ignoring the background."""
    counts = np.bincount(values[(values > 0) & (values < len(names))], minlength=1)
    return names[int(counts.argmax())] if counts.any() else None


def _indices(pixels: np.ndarray, colors: list[Color], file: str) -> np.ndarray:
    """Returns the class indices (H, W) int32 of a map of indices or colors."""
    if pixels.ndim == 2:
        return pixels.astype(np.int32)
    keys = color_values(pixels)
    known = {r + 256 * g + 65536 * b: i for i, (r, g, b) in reversed(list(enumerate(colors)))}
    known.setdefault(224 + 256 * 224 + 65536 * 192, BORDER)
    found, inverse = np.unique(keys, return_inverse=True)
    for key in found.tolist():
        if key not in known:
            color = key & 255, key >> 8 & 255, key >> 16
            raise DatasetError(f"the color {color} has no class. Add it to labelmap.txt.", file, "unknown category")
    return np.array([known[key] for key in found.tolist()], np.int32)[inverse].reshape(keys.shape)


def _pngs(tree: Tree, folder: str) -> dict[str, str]:
    files = (file for file in tree.files if file.lower().endswith(".png"))
    found = (file for file in files if folder in file.lower().split("/")[:-1])
    return {os.path.splitext(os.path.basename(file))[0]: file for file in found}


def _splits(tree: Tree) -> dict[str, str]:
    """Returns {stem: split} from ImageSets/Segmentation/*.txt; train and val take precedence over trainval."""
    splits: dict[str, str] = {}
    for file in tree.files:
        parts = file.split("/")
        if parts[-1].endswith(".txt") and parts[-3:-1] == ["ImageSets", "Segmentation"]:
            split = split_of(parts[-1]) if parts[-1] != "trainval.txt" else ""
            for line in read_text(str(tree.path(file))).split("\n"):
                stem = os.path.basename(line.strip().split(" ")[0])
                if stem and split:
                    splits[stem] = split
    return splits

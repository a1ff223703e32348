"""Reads ADE20K as downloaded (2017 and 2020-21).

`<image>_seg.png` has the class in red and green and the instance in blue. Names come from `<image>.json` (2020-21) or
`<image>_atr.txt` (2017). The first name of an object is its class. Parts of objects are not read.
"""

from __future__ import annotations

import os

import numpy as np

from ..dataset_errors import DatasetError
from .pixels import mask_shape, read_map
from .shapes import Dataset, ImageAnnotation
from .tree import Tree, read_json, read_text, split_of

NAME = "ade20k"
SUFFIX = "_seg.png"


def _table(tree_files: set[str], base: str) -> str | None:
    return next((base + end for end in (".json", "_atr.txt") if base + end in tree_files), None)


def recognize(tree: Tree) -> bool:
    """Returns whether a tree of files has this format; see `formats`."""
    files = set(tree.files)
    return any(_table(files, file.removesuffix(SUFFIX)) for file in tree.having(SUFFIX))


def open_dataset(tree: Tree) -> Dataset:
    """Returns the dataset in a tree of files; see `formats`."""
    files = set(tree.files)
    items = {}
    for file in tree.having(SUFFIX):
        table = _table(files, file.removesuffix(SUFFIX))
        path = str(tree.path(table)) if table else None
        items[file] = (str(tree.path(file)), path, split_of(os.path.dirname(file)))
    return Dataset(NAME, items, read, amodal=False)


def read(item: tuple[str, str | None, str]) -> ImageAnnotation:
    """Reads the map and the names of one image."""
    file, table, split = item
    stem = os.path.basename(file).removesuffix(SUFFIX)
    if table is None:
        raise DatasetError(f"{stem}.json or {stem}_atr.txt with the classes is missing", file, "missing file")
    pixels = read_map(file)
    if pixels.ndim != 3:
        raise DatasetError("the map is not RGB. Download it again.", file, "PNG not RGB")
    names = _names_2020(table) if table.endswith(".json") else _names_2017(table)
    annotation = ImageAnnotation(file, [f"{stem}.jpg", stem], pixels.shape[:2], split=split, more_files=[table])
    red, green, blue = (pixels[..., k].astype(int) for k in range(3))
    classes = red // 10 * 256 + green
    for number in np.unique(blue[blue > 0]).tolist():
        mask = blue == number
        by_class = table.endswith(".json")
        for value in np.unique(classes[mask]).tolist() if by_class else [number]:
            label = names.get(value)
            if label is None:
                text = f"object {number} (class {value}) has no name in {os.path.basename(table)}. It is left out."
                annotation.fault(text, "unknown category")
                continue
            part = mask & (classes == value) if by_class else mask
            annotation.shapes.append(mask_shape(part, label, f"object {number} ({label})", group=number))
    return annotation


def _names_2020(table: str) -> dict[int, str]:
    """Returns the name of each class, from the objects in the JSON."""
    content = read_json(table)
    try:
        objects = content["annotation"]["object"]
        return {int(entry["name_ndx"]): _first_name(entry["name"]) for entry in objects}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DatasetError(f"not an ADE20K JSON ({error!r}). Download it again.", table, "corrupt json") from None


def _names_2017(table: str) -> dict[int, str]:
    """Reads the name of each instance from lines `instance # part level # occluded # names # raw name # attributes`."""
    names = {}
    for number, line in enumerate(read_text(table).splitlines(), start=1):
        fields = [field.strip() for field in line.split("#")]
        if not line.strip():
            continue
        if len(fields) < 4 or not fields[0].isdigit() or not fields[3]:
            text = f"line {number} is not `instance # part level # occluded # names`. Download it again."
            raise DatasetError(text, table, "corrupt text")
        if fields[1] == "0":
            names[int(fields[0])] = _first_name(fields[3])
    return names


def _first_name(names: str) -> str:
    return names.split(",")[0].strip()

"""Reads YOLO segmentation: data.yaml and one text file per image with `class x y x y ...` relative to the image size.

Also reads the exports of CVAT and Label Studio (classes.txt). A line of five numbers is a box, which is not a mask.
Text files are in `labels` and images in `images`, below or above the splits. Smaller shapes are in front, because the
format does not define an order. `train`, `val` and `test` of data.yaml are folders, lists of images (.txt), or several;
other images have the split that their folder names.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..dataset_errors import DatasetError
from ..image_header import IMAGE_SUFFIXES
from .masks import check_points
from .shapes import ClassInfo, Dataset, ImageAnnotation, Polygon, Shape
from .tree import SPLITS, ImageIndex, Tree, read_text, read_yaml, split_of

NAME = "yolo"
TABLES = ("classes.txt", "obj.names", "labels.txt")


def recognize(tree: Tree) -> bool:
    """Returns whether a tree of files has this format; see `formats`."""
    return _names_file(tree) is not None and bool(_texts(tree))


def open_dataset(tree: Tree) -> Dataset:
    """Returns the dataset in a tree of files; see `formats`."""
    file = _names_file(tree)
    if file is None:
        text = "data.yaml with names, or classes.txt, is missing. Export it with the labels."
        raise DatasetError(text, str(tree.root), "missing file")
    names = _read_names(str(tree.path(file)))
    items = {
        text: {"file": str(tree.path(text)), "names": names, "split": split_of(os.path.dirname(text)), "index": None}
        for text in _texts(tree)
    }
    index = ImageIndex(tree)
    splits = _splits(tree, file)
    for item in items.values():
        item["image"] = _image(item["file"], index)
        places = [item["image"], *map(str, Path(item["image"]).parents)] if item["image"] else []
        item["split"] = next((splits[place] for place in places if place in splits), item["split"])
    classes = [ClassInfo(name) for name in dict.fromkeys(names.values())]
    return Dataset(NAME, items, read, classes, order="smaller-in-front", boxes="skip", objects="likely")


def read(item: dict[str, Any], size: tuple[int, int] | None = None) -> ImageAnnotation:
    """Reads one text file, whose coordinates are scaled to the image size during painting."""
    file, names = item["file"], item["names"]
    stem = os.path.splitext(os.path.basename(file))[0]
    annotation = ImageAnnotation(file, [item["image"] or stem], None, split=item["split"])
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        if not line.strip():
            continue
        name = f"line {number}"
        with annotation.guard(name):
            values = [float(value) for value in line.split()]
            if values[0] not in names:
                raise ValueError(f"the class {line.split()[0]} is not in the list of names")
            label = names[int(values[0])]
            if len(values) == 5:
                x, y, w, h = values[1:]
                values[1:] = [x - w / 2, y - h / 2, x + w / 2, y - h / 2, x + w / 2, y + h / 2, x - w / 2, y + h / 2]
            points = check_points(values[1:], 3)
            if abs(points).max() > 2:
                raise ValueError("its coordinates are not parts of width and height (0..1)")
            shape = Shape(label, RelativePolygon([[points]]), f"{name} ({label})", isbox=len(line.split()) == 5)
            annotation.shapes.append(shape)
    return annotation


class RelativePolygon(Polygon):
    """Polygon with coordinates relative to the width and height of its image."""

    def crop(self, height: int, width: int) -> Any:
        """Draws the polygons, scaled to the image size, as a crop of the image."""
        return self._scaled(height, width).crop(height, width)

    def bounds(self, height: int, width: int) -> tuple[float, float, float, float]:
        """Returns left, top, right and bottom."""
        return self._scaled(height, width).bounds(height, width)

    def _scaled(self, height: int, width: int) -> Polygon:
        return Polygon([[ring * (width, height) for ring in rings] for rings in self.parts], self.fill)


def _texts(tree: Tree) -> list[str]:
    texts = [file for file in tree.having(".txt") if "labels" in file.lower().split("/")[:-1]]
    if not texts and _names_file(tree) is not None:  # text files next to their images
        images = {os.path.splitext(file)[0] for file in tree.images()}
        texts = [file for file in tree.having(".txt") if os.path.splitext(file)[0] in images]
    return [file for file in texts if os.path.basename(file).lower() not in TABLES]


def _names_file(tree: Tree) -> str | None:
    for file in tree.files:
        if file.lower().endswith((".yaml", ".yml")):
            try:
                content = read_yaml(str(tree.path(file)))
            except DatasetError:
                continue
            if isinstance(content, dict) and isinstance(content.get("names"), list | dict):
                return file
    return next((file for file in tree.files if os.path.basename(file).lower() in TABLES), None)


def _read_names(file: str) -> dict[int, str]:
    if not file.lower().endswith((".yaml", ".yml")):
        return dict(enumerate(line.strip() for line in read_text(file).splitlines() if line.strip()))
    content = read_yaml(file)["names"]
    pairs = content.items() if isinstance(content, dict) else enumerate(content)
    names = {}
    for key, name in pairs:
        if not str(key).isdigit() or not isinstance(name, str | int | float):
            raise DatasetError(f"names has the entry {key!r}: {name!r}, not a number and a name", file, "bad category")
        names[int(key)] = str(name)
    return names


def _splits(tree: Tree, file: str) -> dict[str, str]:
    """Returns {path of a folder or image: split} from the paths in data.yaml; the first split of a path counts.

    Paths are often of another machine, or relative to other folders than `path`, so their last parts are searched below
    the folders of data.yaml and of the annotations.
    """
    found: dict[str, str] = {}
    content = read_yaml(str(tree.path(file))) if file.lower().endswith((".yaml", ".yml")) else {}
    roots = [tree.path(file).parent, tree.root]
    prefix = content.get("path") if isinstance(content.get("path"), str) else ""
    for key, values in content.items():
        split = split_of(str(key)) if str(key).lower() in SPLITS else ""
        for value in values if isinstance(values, list) else [values]:
            if split and isinstance(value, str):
                place = _below(f"{prefix}/{value}", roots)
                if place is not None and place.suffix.lower() == ".txt":
                    lines = filter(None, map(str.strip, read_text(str(place)).splitlines()))
                    for image in filter(None, (_below(line, [place.parent, *roots]) for line in lines)):
                        found.setdefault(str(image), split)
                elif place is not None:
                    found.setdefault(str(place), split)
    return found


def _below(path: str, roots: Sequence[Path]) -> Path | None:
    """Returns the longest end of a path that exists below one of the folders, or None."""
    parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    ends = ["/".join(parts[start:]) for start in range(len(parts))]
    return next((root / end for end in ends for root in roots if (root / end).exists()), None)


def _image(text: str, index: ImageIndex) -> str | None:
    """Returns the image of a text file: with `images` in place of the last `labels`, or by its stem."""

    stem = os.path.splitext(text)[0]
    parts = stem.split(os.sep)
    if "labels" in parts:
        position = len(parts) - 1 - parts[::-1].index("labels")
        parts[position] = "images"
    for base in (os.sep.join(parts), stem):
        for suffix in sorted(IMAGE_SUFFIXES) + sorted(s.upper() for s in IMAGE_SUFFIXES):
            if os.path.isfile(base + suffix):
                return base + suffix
    return index.find([os.path.basename(stem)], os.path.dirname(text))

"""Reads pixel maps: PNGs of any kind, their class tables, and the shapes in them."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from ..dataset_errors import DatasetError
from ..image_header import open_image
from .masks import Crop, tight_crop
from .shapes import ClassInfo, ImageAnnotation, Mask, Shape
from .tree import Tree, hex_color, read_json, read_text

Color = tuple[int, int, int]
TABLES = (
    "labelmap.txt", "label_colors.txt", "labels.txt", "classes.txt", "class_names.txt", "classes.json", "labels.json",
    "dataset_meta.json", "class_dict.csv", "classes.csv", "labels.csv", "categories.json", "_classes.csv",
)  # fmt: skip
# Suffixes of file names that describe the kind of a file, not its image.
_ENDS = re.compile(
    r"(?:_gtfine|_gtcoarse|_leftimg8bit)?_?(?:instanceids|labelids|labeltrainids|color|leftimg8bit|polygons|masks?|segm?"
    r"|labels?|semantic|instances?|instance_ids|gt|l|seg_map|panoptic)$"
)


@dataclass
class ClassTable:
    """Mapping from the values or colors of a map to classes."""

    by_value: dict[int, ClassInfo] = field(default_factory=dict)
    by_color: dict[Color, ClassInfo] = field(default_factory=dict)

    def add(self, value: int, name: str, color: Color | None = None, isthing: bool | None = None) -> None:
        """Adds the class of a value, with its color if it has one."""
        info = ClassInfo(name, isthing, color)
        self.by_value.setdefault(value, info)
        if color is not None:
            self.by_color.setdefault(color, info)

    def name_of(self, value: int) -> str | None:
        """Returns the name of a value's class, or None if the value has no class."""
        return self.by_value[value].name if value in self.by_value else None

    def classes(self) -> list[ClassInfo]:
        """Returns the classes by value, without a background (the class of value 0 with a background name)."""
        return [
            info for value, info in sorted(self.by_value.items()) if value >= 0 and not is_background(value, info.name)
        ]


def is_background(value: int, name: str) -> bool:
    """Returns whether a class of a table represents pixels without a class."""
    return value == 0 and name.lower() in ("background", "_background_", "__background__", "void", "unlabeled", "bg")


def read_map(path: str) -> np.ndarray:
    """Reads a map: (H, W) integers (palette indices for a palette PNG), or (H, W, 3) uint8 colors.

    Raises:
        DatasetError: the file cannot be read.
    """
    try:
        with open_image(path) as image:
            if image.mode in ("RGBA", "CMYK", "YCbCr"):
                image = image.convert("RGB")
            elif image.mode in ("LA", "PA"):
                image = image.convert(image.mode[0])
            pixels = np.asarray(image)
    except DatasetError:
        raise
    except FileNotFoundError:
        raise DatasetError("the map is missing. Export it again.", path, "missing PNG") from None
    except Exception as error:
        text = f"the map cannot be read ({type(error).__name__}: {error}). Export it again."
        raise DatasetError(text, path, "corrupt PNG") from None
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8)
    if pixels.ndim not in (2, 3) or pixels.dtype.kind not in "iu":
        raise DatasetError(f"the map has pixels of type {pixels.dtype}, not integers", path, "corrupt PNG")
    if pixels.ndim == 3 and (pixels == pixels[..., :1]).all() and path.lower().endswith((".jpg", ".jpeg")):
        pixels = pixels[..., 0]
    return pixels


def class_shapes(
    pixels: np.ndarray,
    name_of: Callable[[int], str | None],
    annotation: ImageAnnotation,
    ignored: int | None = None,
) -> list[Shape]:
    """Makes one semantic shape per value of a map (H, W); values without a name are reported and become void."""
    shapes = []
    for value in np.unique(pixels).tolist():
        name = name_of(value)
        if name is None:
            if value != ignored:
                annotation.notes[f"pixels of value {value} without a class left void (images)"] += 1
            continue
        if value == ignored or is_background(value, name):
            continue
        shapes.append(mask_shape(pixels == value, name, f"class {name}", semantic=True))
    return shapes


def mask_shape(mask: np.ndarray, label: str, name: str, top: int = 0, left: int = 0, **options: Any) -> Shape:
    """Makes a shape from a mask (h, w) bool at row `top` and column `left`."""
    return Shape(label, Mask(partial(_crop_of, mask, top, left)), name, **options)


def _crop_of(mask: np.ndarray, top: int, left: int, _height: int, _width: int) -> Crop:
    return tight_crop(mask, top, left)


def color_values(pixels: np.ndarray) -> np.ndarray:
    """Converts colors (H, W, 3) to integers R + 256 G + 65536 B (H, W)."""
    return pixels[..., :3].astype(np.int32) @ np.array([1, 256, 65536], np.int32)


def find_maps(tree: Tree, folders: Sequence[str]) -> dict[str, str]:
    """Returns {stem of an image: path of its PNG}, for PNGs in folders with these names (at any depth)."""
    found = {}
    for file in tree.files:
        parts = file.lower().split("/")[:-1]
        if file.lower().endswith(".png") and any(part in folders for part in parts):
            found[map_stem(file)] = str(tree.path(file))
    return found


def map_stem(file: str) -> str:
    """Returns the stem that a map shares with its image, without folders, suffixes, and words such as _mask."""
    stem = os.path.splitext(os.path.basename(file))[0]
    match = _ENDS.search(stem.lower())
    return stem[: match.start()] if match and match.start() > 0 else stem


# -- class tables ----------------------------------------------------------------------------------------------------


def find_class_table(tree: Tree) -> ClassTable | None:
    """Reads the class table of a folder, found by the names in `TABLES`; returns None if there is none.

    Raises:
        DatasetError: the table cannot be read.
    """
    by_name = {os.path.basename(file).lower(): str(tree.path(file)) for file in reversed(tree.files)}
    for name in TABLES:
        if name in by_name:
            table = read_class_table(by_name[name])
            if table.by_value:
                return table
    return None


def read_class_table(path: str) -> ClassTable:
    """Reads a class table in JSON, CSV or text format, with or without values and colors.

    Raises:
        DatasetError: the table cannot be read.
    """
    if path.lower().endswith(".json"):
        return _from_json(read_json(path))
    lines = [line.strip() for line in read_text(path).splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    return _from_csv(lines) if path.lower().endswith(".csv") else _from_lines(lines)


def _from_json(content: Any) -> ClassTable:
    """Reads a list of names or entries, a dict {value: name} (or the reverse), or datumaro's dataset_meta."""
    table = ClassTable()
    colors: list = []
    if isinstance(content, dict) and isinstance(content.get("label_map"), dict):
        colors = content.get("segmentation_colors") or []
        content = content["label_map"]
    for key in ("categories", "classes", "labels"):
        if isinstance(content, dict) and isinstance(content.get(key), list):
            content = content[key]
    pairs = enumerate(content) if isinstance(content, list) else content.items() if isinstance(content, dict) else ()
    for index, (key, entry) in enumerate(pairs):
        color, isthing, value = None, None, key
        if isinstance(entry, dict):
            value = entry.get("id", entry.get("value", key))
            color, isthing = entry.get("color"), entry.get("isthing", entry.get("instances"))
            entry = entry.get("name", entry.get("title"))
        elif index < len(colors):
            color = colors[index]
        if isinstance(entry, int) and isinstance(value, str) and not value.isdigit():
            value, entry = entry, value
        if str(value).isdigit() and isinstance(entry, str) and entry:
            known = bool(isthing) if isthing in (0, 1) else None
            table.add(int(value), entry, _color(color), known)
    return table


def _from_csv(lines: list[str]) -> ClassTable:
    """Reads a table with a name and r, g, b (CamVid's class_dict.csv) or a value (Roboflow's _classes.csv)."""

    table = ClassTable()
    for index, row in enumerate(csv.DictReader(lines)):
        row = {
            (key or "").strip().lower(): (value or "") for key, value in row.items() if isinstance(value, str | None)
        }
        name = row.get("name") or row.get("class") or row.get("label")
        number = row.get("id") or row.get("value") or row.get("pixel value") or str(index)
        if name and number.strip().isdigit():
            table.add(int(number), name.strip(), _color([row.get("r"), row.get("g"), row.get("b")]))
    return table


def _from_lines(lines: list[str]) -> ClassTable:
    """Reads CVAT's `name:r,g,b::`, `r g b name`, `value: name`, `value name`, or names in the order of the values."""
    table = ClassTable()
    names = [line for line in lines if line != "__ignore__"]
    for index, line in enumerate(names):
        if match := re.fullmatch(r"(.+?):(\d+),(\d+),(\d+)(?::.*)?", line):
            table.add(index, match[1], _color(match.groups()[1:]))
        elif match := re.fullmatch(r"(\d+)[\s,]+(\d+)[\s,]+(\d+)[\s,:]+(\S.*)", line):
            table.add(index, match[4].strip(), _color(match.groups()[:3]))
        elif match := re.fullmatch(r"(\d+)\s*[:,\t ]\s*(\S.*)", line):
            table.add(int(match[1]), match[2].strip())
        else:
            table.add(index, line)
    return table


def _color(value: Any) -> Color | None:
    """Parses a color from a list of numbers (or number strings) or "#rrggbb"; returns None for anything else."""
    if isinstance(value, str):
        return hex_color(value)
    try:
        color = tuple(int(v) for v in value)
    except (TypeError, ValueError):
        return None
    return color if len(color) == 3 and all(0 <= v < 256 for v in color) else None

"""Reads Supervisely projects: meta.json, and `ann/<image>.json` next to `img/<image>` in the folder of each dataset.

A bitmap is a zlib-compressed PNG at its origin. Polygons can have inner rings and are drawn with OpenCV. A rectangle is
given by two corners, both inclusive. Points, lines, graphs and cuboids have no area. Later objects are in front.
"""

from __future__ import annotations

import os
import zlib
from functools import partial
from typing import Any

import numpy as np

from ..dataset_errors import DatasetError
from .encodings import decode_base64, decode_png_mask
from .masks import MAX_PIXELS, Crop, box_ring, check_points, check_size
from .shapes import ClassInfo, Dataset, ImageAnnotation, Mask, Polygon, Shape, check_label
from .tree import Tree, hex_color, read_json, split_of

NAME = "supervisely"
NO_AREA = frozenset({"point", "line", "graph", "cuboid", "cuboid_3d", "multichannelBitmap", "point_cloud"})


def is_supervisely(content: Any) -> bool:
    """Returns whether parsed JSON is an annotation of Supervisely."""
    return (
        isinstance(content, dict)
        and isinstance(content.get("size"), dict)
        and isinstance(content.get("objects"), list)
        and "info" not in content
    )


def recognize(tree: Tree) -> bool:
    """Returns whether a tree of files has this format; see `formats`."""
    return any(map(is_supervisely, tree.samples(".json").values()))


def open_dataset(tree: Tree) -> Dataset:
    """Returns the dataset in a tree of files; see `formats`."""
    files = tree.having(".json")
    dataset = Dataset(NAME, {}, read)
    for file in files:
        name = os.path.basename(file)
        if name in ("meta.json", "obj_class_to_machine_color.json", "key_id_map.json"):
            if name == "meta.json":
                dataset.classes += _classes(read_json(str(tree.path(file))), str(tree.path(file)))
        else:
            dataset.items[file] = (str(tree.path(file)), split_of(os.path.dirname(file)))
    dataset.classes = list({info.name: info for info in dataset.classes}.values())
    return dataset


def _classes(meta: Any, file: str) -> list[ClassInfo]:
    entries = meta.get("classes") if isinstance(meta, dict) else None
    if not isinstance(entries, list):
        raise DatasetError("meta.json has no list of classes. Export the project again.", file, "bad category")
    infos = []
    for entry in entries:
        if isinstance(entry, dict) and isinstance(entry.get("title"), str) and entry.get("shape") not in NO_AREA:
            infos.append(ClassInfo(entry["title"], color=hex_color(entry.get("color"))))
    return infos


def read(item: tuple[str, str]) -> ImageAnnotation:
    """Reads one file."""
    file, split = item
    content = read_json(file)
    if not is_supervisely(content):
        raise DatasetError("not a Supervisely annotation (no size and objects). Move it away.", file, "other json")
    size = check_size(content["size"].get("height"), content["size"].get("width"))
    name = os.path.basename(file).removesuffix(".json")
    annotation = ImageAnnotation(file, [f"../img/{name}", name], size, split=split)
    for index, entry in enumerate(content["objects"]):
        where = f"objects[{index}]"
        with annotation.guard(where):
            kind = entry.get("geometryType") or ("bitmap" if entry.get("bitmap") else "polygon")
            if kind in NO_AREA:
                annotation.notes[f"shapes without an area left out ({kind})"] += 1
                continue
            label = check_label(entry["classTitle"])
            shape = Shape(label, _geometry(kind, entry), f"{where} ({label})", isbox=kind == "rectangle")
            annotation.shapes.append(shape)
    return annotation


def _geometry(kind: str, entry: dict[str, Any]) -> Polygon | Mask:
    if kind in ("bitmap", "alpha_mask"):
        return Mask(partial(_decode, entry["bitmap"]["data"], check_points(entry["bitmap"]["origin"])))
    exterior = check_points(entry["points"]["exterior"])
    if kind == "rectangle":
        return Polygon([[box_ring(*exterior.min(0), *exterior.max(0))]], "opencv")
    if kind != "polygon":
        raise ValueError(f"the geometry type {kind!r} is not known")
    holes = [check_points(ring, 3) for ring in entry["points"].get("interior") or ()]
    return HoledPolygon([[check_points(exterior, 3), *holes]], "opencv")


class HoledPolygon(Polygon):
    """Polygon drawn with its outline, whose holes are cut out including their outlines."""

    def crop(self, height: int, width: int) -> Crop:
        """Draws the polygons and cuts out their holes, as a crop of an image with this size."""
        exterior, *holes = self.parts[0]
        whole = Polygon([[exterior]], self.fill).crop(height, width)
        mask = whole.mask.copy()
        for ring in holes:
            hole = Polygon([[ring]], self.fill).crop(height, width)
            full = np.zeros((height, width), bool)
            full[hole.top : hole.top + hole.mask.shape[0], hole.left : hole.left + hole.mask.shape[1]] = hole.mask
            mask &= ~full[whole.top : whole.top + mask.shape[0], whole.left : whole.left + mask.shape[1]]
        return Crop(mask, whole.top, whole.left)


def _decode(data: str, origin: np.ndarray, *_: int) -> Crop:
    packed = zlib.decompressobj()
    png = packed.decompress(decode_base64(data), MAX_PIXELS)
    if packed.unconsumed_tail or not packed.eof:
        raise ValueError("its bitmap is cut off or too large")
    left, top = origin[0].astype(int).tolist()
    return Crop(decode_png_mask(png), top, left)

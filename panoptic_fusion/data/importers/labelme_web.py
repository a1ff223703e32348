"""Reads XML of the LabelMe web tool, also exported by CVAT ("LabelMe 3.0"), one file per image.

An object is a polygon, or a mask PNG in `Masks` whose opaque (or nonzero) pixels count. Deleted objects are skipped.
Later objects are in front.
"""

from __future__ import annotations

import os
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
from PIL import Image

from ..dataset_errors import DatasetError
from .masks import check_points, check_size
from .pixels import mask_shape
from .shapes import Dataset, ImageAnnotation, Polygon, Shape, check_label
from .tree import Tree, read_xml, split_of

NAME = "labelme-web"


def is_labelme_web(root: Element) -> bool:
    """Returns whether parsed XML is from LabelMe; VOC XML has the same root, but also a size and boxes."""
    return root.tag == "annotation" and root.find("size") is None and root.find("object/bndbox") is None


def recognize(tree: Tree) -> bool:
    """Returns whether a tree of files has this format; see `formats`."""
    return any(map(is_labelme_web, tree.samples(".xml").values()))


def open_dataset(tree: Tree) -> Dataset:
    """Returns the dataset in a tree of files; see `formats`."""
    items = {file: (str(tree.path(file)), split_of(os.path.dirname(file))) for file in tree.having(".xml")}
    return Dataset(NAME, items, read)


def read(item: tuple[str, str]) -> ImageAnnotation:
    """Reads one file."""
    file, split = item
    root = read_xml(file)
    if not is_labelme_web(root):
        raise DatasetError("not a LabelMe annotation. Move it away.", file, "other xml")
    size = None
    if root.find("imagesize") is not None:
        size = check_size(root.findtext("imagesize/nrows"), root.findtext("imagesize/ncols"))
    name, folder = (root.findtext("filename") or "").strip(), (root.findtext("folder") or "").strip()
    names = [f"{folder}/{name}", name] if folder else [name]
    annotation = ImageAnnotation(file, [*names, os.path.splitext(os.path.basename(file))[0]], size, split=split)
    for index, entry in enumerate(root.iterfind("object")):
        if (entry.findtext("deleted") or "0").strip() == "1":
            annotation.notes["deleted objects left out"] += 1
            continue
        where = f"object {index}"
        with annotation.guard(where):
            label = check_label(entry.findtext("name"))
            if entry.find("segm") is not None:
                mask = _find_mask(Path(file).parent, (entry.findtext("segm/mask") or "").strip())
                annotation.more_files.append(str(mask))
                pixels = _opaque(mask)
                if size is not None and pixels.shape != size:
                    raise ValueError(f"its mask {mask.name} has a different size than the image")
                annotation.shapes.append(mask_shape(pixels, label, f"{where} ({label})"))
                continue
            points = [[p.findtext("x"), p.findtext("y")] for p in entry.iterfind("polygon/pt")]
            isbox = entry.findtext("type") == "bounding_box"
            geometry = Polygon([[check_points(points, 3)]])
            annotation.shapes.append(Shape(label, geometry, f"{where} ({label})", isbox=isbox))
    return annotation


def _find_mask(folder: Path, name: str) -> Path:
    for path in (folder / "Masks" / name, folder / name, folder.parent / "Masks" / folder.name / name):
        if name and path.is_file():
            return path
    raise ValueError(f"its mask {name!r} is missing in Masks")


def _opaque(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        if image.mode in ("RGBA", "LA"):
            return np.asarray(image)[..., -1] > 0
        return np.asarray(image.convert("RGB")).any(-1)

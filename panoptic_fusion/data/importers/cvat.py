"""Reads CVAT XML 1.1 for images and for video.

Shapes are ordered by z_order, then by file order. Shapes with the same label and group_id (other than 0) form one
object; in a video, a track is one object. Polylines, points, skeletons, cuboids and tags have no area. A mask consists
of runs along the rows of its box, background first.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import partial
from xml.etree.ElementTree import Element

import numpy as np

from ..dataset_errors import DatasetError
from .encodings import decode_row_runs
from .masks import Crop, box_ring, check_points, check_size, ellipse_ring
from .shapes import ClassInfo, Dataset, ImageAnnotation, Mask, Polygon, Shape
from .tree import Tree, hex_color, read_xml, split_of

NAME = "cvat"
AREAS = frozenset({"box", "polygon", "ellipse", "mask"})
NO_AREA = frozenset({"polyline", "points", "skeleton", "cuboid", "tag"})


def is_cvat(root: Element) -> bool:
    """Returns whether parsed XML is from CVAT."""
    return root.tag == "annotations" and any(root.find(tag) is not None for tag in ("image", "track", "meta"))


def recognize(tree: Tree) -> bool:
    """Returns whether a tree of files has this format; see `formats`."""
    return any(map(is_cvat, tree.samples(".xml").values()))


def open_dataset(tree: Tree) -> Dataset:
    """Returns the dataset in a tree of files; see `formats`."""
    dataset = Dataset(NAME, {}, read, order="z")
    classes: dict[str, ClassInfo] = {}
    for file in tree.having(".xml"):
        path = str(tree.path(file))
        try:
            root = read_xml(path)
        except DatasetError as error:
            dataset.faults.append(error)
            continue
        if not is_cvat(root):
            continue
        for label in root.iterfind("./meta//labels/label"):
            name = (label.findtext("name") or "").strip()
            if name and label.findtext("parent") is None and label.findtext("type") not in ("skeleton", "tag"):
                classes.setdefault(name, ClassInfo(name, color=hex_color(label.findtext("color"))))
        subset = root.findtext("./meta//subset") or ""
        for image in root.iterfind("image"):
            _add_image(dataset, file, path, image, subset)
        if root.find("track") is not None:
            _add_frames(dataset, file, path, root, subset)
    dataset.classes = list(classes.values())
    return dataset


def read(item: ImageAnnotation) -> ImageAnnotation:
    """Returns the annotation that `open_dataset` has already read."""
    return item.copy()


def _add_image(dataset: Dataset, file: str, path: str, image: Element, subset: str) -> None:
    name = image.get("name") or ""
    try:
        size = check_size(image.get("height"), image.get("width"))
    except ValueError as error:
        text = f"image {name!r}: {error}. Correct its width and height."
        dataset.faults.append(DatasetError(text, path, "bad image entry"))
        return
    split = split_of(image.get("subset") or subset, os.path.dirname(name), os.path.dirname(file))
    names = [f"images/{name}", name]
    annotation = ImageAnnotation(path, names, size, split=split)
    for index, element in enumerate(image):
        _add_shape(annotation, element, element.get("label"), f"image {name!r}, {element.tag} {index}", None)
    _add_item(dataset, f"{file}: {name}", annotation)


def _add_frames(dataset: Dataset, file: str, path: str, root: Element, subset: str) -> None:
    height, width = (root.findtext(f"./meta//original_size/{side}") for side in ("height", "width"))
    try:
        size = check_size(height, width)
    except ValueError:
        text = "the video's size is missing in meta/task/original_size. Export it again."
        dataset.faults.append(DatasetError(text, path, "bad image entry"))
        return
    frames: dict[int, list[tuple[Element, Element, int]]] = defaultdict(list)
    for index, track in enumerate(root.iterfind("track")):
        for element in track:
            frame = element.get("frame")
            if frame is None or not frame.isdigit():
                text = f"track {index}: a {element.tag} has the frame {frame!r}. Correct or remove it."
                dataset.faults.append(DatasetError(text, path, "bad annotation entry"))
                continue
            frames[int(frame)].append((track, element, index))
    for frame, found in sorted(frames.items()):
        name = f"frame_{frame:06d}"
        names = [f"images/{name}.png", f"images/{name}.PNG", f"images/{name}.jpg", name]
        annotation = ImageAnnotation(path, names, size, split=split_of(subset, os.path.dirname(file)))
        for track, element, index in found:
            if element.get("outside") != "1":
                where = f"track {track.get('id', index)}, frame {frame}"
                _add_shape(annotation, element, track.get("label"), where, f"track {index}")
        _add_item(dataset, f"{file}: {name}", annotation)


def _add_item(dataset: Dataset, key: str, annotation: ImageAnnotation) -> None:
    if key in dataset.items:
        text = f"{key} occurs twice. Remove one of the two."
        dataset.faults.append(DatasetError(text, annotation.file, "duplicate annotation"))
    else:
        dataset.items[key] = annotation


def _add_shape(annotation: ImageAnnotation, element: Element, label: str | None, name: str, group: str | None) -> None:
    if element.tag in NO_AREA:
        annotation.notes[f"shapes without an area left out ({element.tag})"] += 1
        return
    with annotation.guard(name):
        if element.tag not in AREAS:
            raise ValueError(f"the element <{element.tag}> is not known")
        if not (label or "").strip():
            raise ValueError("its label is empty")
        if group is None and element.get("group_id") not in (None, "", "0"):
            group = f"group {element.get('group_id')}"
        geometry = _geometry(element.tag, element.attrib)
        z = float(element.get("z_order") or 0)
        isbox = element.tag == "box"
        annotation.shapes.append(Shape(label.strip(), geometry, f"{name} ({label})", z, group, isbox=isbox))


def _geometry(kind: str, values: Mapping[str, str]) -> Polygon | Mask:
    if kind == "mask":
        left, top, width, height = (int(float(values[key])) for key in ("left", "top", "width", "height"))
        counts = [int(count) for count in values["rle"].split(",")]
        check_size(height, width)
        return Mask(partial(_decode_mask, counts, left, top, width, height))
    if kind == "polygon":
        return Polygon([[check_points(_pairs(values["points"].split(";")), 3)]])
    degrees = float(values.get("rotation") or 0)
    keys = ("xtl", "ytl", "xbr", "ybr") if kind == "box" else ("cx", "cy", "rx", "ry")
    numbers = check_points([float(values[key]) for key in keys]).ravel().tolist()
    ring = box_ring(*numbers, degrees) if kind == "box" else ellipse_ring(*numbers, degrees)
    return Polygon([[check_points(ring)]])


def _pairs(texts: Iterable[str]) -> list[list[float]]:
    return [[float(value) for value in text.split(",")] for text in texts if text.strip()]


def _decode_mask(counts: list[int], left: int, top: int, width: int, height: int, *_: int) -> Crop:
    return Crop(np.asarray(decode_row_runs(counts, height, width)), top, left)

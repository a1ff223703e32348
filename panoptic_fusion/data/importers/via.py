"""Reads VGG Image Annotator 3 (JSON project or CSV export), 2 (also JSON export) and 1.

The class is the region attribute named label, labels, class, type, name or category, otherwise the only attribute.
Identical regions of an image count once. Rectangles, circles, ellipses and polygons have an area. Later regions are in
front.
"""

from __future__ import annotations

import csv
import io
import json
import os
from typing import Any

import numpy as np

from ..dataset_errors import DatasetError
from . import via3
from .masks import box_ring, check_points, ellipse_ring
from .shapes import Dataset, ImageAnnotation, Polygon, Shape, check_label
from .tree import Tree, read_json, read_text, split_of

NAME = "via"
NO_AREA = frozenset({"polyline", "point"})
CLASS_KEYS = ("label", "labels", "class", "type", "name", "category", "object", "object_name")
CSV_COLUMNS = {"filename", "region_shape_attributes", "region_attributes"}


def images_of(content: Any) -> dict[str, dict[str, Any]]:
    """Returns the images in parsed JSON by their keys; empty if it is not from VIA."""
    if via3.is_project(content):
        return via3.images_of(content)
    if isinstance(content, dict) and isinstance(content.get("_via_img_metadata"), dict):
        content = content["_via_img_metadata"]
    if not isinstance(content, dict):
        return {}
    found = {key: image for key, image in content.items() if isinstance(image, dict) and "regions" in image}
    return {key: image for key, image in found.items() if "filename" in image}


def recognize(tree: Tree) -> bool:
    """Returns whether a tree of files has this format; see `formats`."""
    return any(map(images_of, tree.samples(".json").values())) or any(_is_csv(tree, f) for f in tree.having(".csv"))


def open_dataset(tree: Tree) -> Dataset:
    """Returns the dataset in a tree of files; see `formats`."""
    dataset = Dataset(NAME, {}, read)
    files = [file for file in tree.having(".json") if images_of(_readable(tree, file, dataset))]
    if not files:
        files = [file for file in tree.having(".csv") if _is_csv(tree, file)]
    for file in files:
        path = str(tree.path(file))
        images = images_of(read_json(path)) if file.lower().endswith(".json") else _from_csv(path)
        for key, image in images.items():
            if image["regions"]:
                split = split_of(os.path.basename(file), os.path.dirname(file))
                dataset.items[f"{file}: {key}"] = {"file": path, "image": image, "split": split}
    return dataset


def read(item: dict[str, Any]) -> ImageAnnotation:
    """Reads the regions of one image."""
    image, file = item["image"], item["file"]
    if image.get("problem"):
        raise DatasetError(image["problem"], file, "other json")
    annotation = ImageAnnotation(file, image.get("names") or [str(image["filename"])], None, split=item["split"])
    regions = image["regions"]
    seen = set()
    for index, region in regions.items() if isinstance(regions, dict) else enumerate(regions):
        where = f"{image['filename']}, region {index}"
        with annotation.guard(where):
            if "attributes" in image:
                region = via3.as_version_2(region, image["attributes"])
            shape, attributes = region["shape_attributes"], region["region_attributes"]
            if shape["name"] in NO_AREA:
                annotation.notes[f"shapes without an area left out ({shape['name']})"] += 1
                continue
            label = _label(attributes)
            key = json.dumps([shape, label], sort_keys=True)
            if key in seen:
                annotation.notes["equal regions taken once"] += 1
                continue
            seen.add(key)
            isbox = shape["name"] == "rect"
            annotation.shapes.append(Shape(label, _geometry(shape), f"{where} ({label})", isbox=isbox))
    return annotation


def _geometry(shape: dict[str, Any]) -> Polygon:
    kind = shape["name"]
    if kind == "rect":
        x, y, w, h = (float(shape[key]) for key in ("x", "y", "width", "height"))
        return Polygon([[check_points(box_ring(x, y, x + w, y + h))]])
    if kind == "circle":
        x, y, r = (float(shape[key]) for key in ("cx", "cy", "r"))
        return Polygon([[check_points(ellipse_ring(x, y, r, r))]])
    if kind == "ellipse":
        x, y, rx, ry = (float(shape[key]) for key in ("cx", "cy", "rx", "ry"))
        return Polygon([[check_points(ellipse_ring(x, y, rx, ry, float(np.rad2deg(shape.get("theta", 0)))))]])
    if kind not in ("polygon", "polyline"):
        raise ValueError(f"the shape {kind!r} is not known")
    if len(shape["all_points_x"]) != len(shape["all_points_y"]):
        raise ValueError("all_points_x and all_points_y have different lengths")
    return Polygon([[check_points(list(zip(shape["all_points_x"], shape["all_points_y"], strict=True)), 3)]])


def _label(attributes: Any) -> str:
    """Returns the class in region attributes; a checkbox attribute has the form {class: true}."""
    if not isinstance(attributes, dict) or not attributes:
        raise ValueError("it has no region attribute with its class")
    names = {key.lower(): key for key in attributes}
    known = [names[key] for key in CLASS_KEYS if key in names]
    if not known and len(attributes) > 1:
        raise ValueError(f"it has the attributes {', '.join(attributes)}: name the attribute with the class 'label'")
    value = attributes[known[0] if known else next(iter(attributes))]
    if isinstance(value, dict):
        value = next((key for key, chosen in value.items() if chosen), "")
    return check_label(value)


def _readable(tree: Tree, file: str, dataset: Dataset) -> Any:
    try:
        return read_json(str(tree.path(file)))
    except DatasetError as error:
        dataset.faults.append(error)
        return None


def _is_csv(tree: Tree, file: str) -> bool:
    try:
        text = read_text(str(tree.path(file)))
        return via3.is_csv(text) or set(text.splitlines()[0].replace("#", "").split(",")) >= CSV_COLUMNS
    except (DatasetError, IndexError):
        return False


def _from_csv(path: str) -> dict[str, dict[str, Any]]:
    images: dict[str, dict[str, Any]] = {}
    csv.field_size_limit(2**31 - 1)  # a polygon of many points exceeds the default, 128 KiB
    text = read_text(path)
    if via3.is_csv(text):
        return via3.images_of(via3.from_csv(text))
    for row in csv.DictReader(io.StringIO(text.lstrip("#"))):
        name = row.get("filename") or ""
        region = {}
        for key, column in (("shape_attributes", "region_shape_attributes"), ("region_attributes",) * 2):
            try:
                region[key] = json.loads(row.get(column) or "{}")
            except ValueError:
                region[key] = None
        if region["shape_attributes"] != {}:
            images.setdefault(name, {"filename": name, "regions": []})["regions"].append(region)
    return images

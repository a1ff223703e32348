"""Reads Label Studio JSON: full and minimal exports with polygons, boxes, ellipses, brushes, bitmasks and vectors.

Coordinates are percentages of original_width and original_height. Results with the same id form one region: one result
may have the geometry and another the class. If a task has several annotations, only one is used: the annotation marked
as ground truth, otherwise the first that was not canceled. Annotations are never merged. Shapes keep the file order.
A bitmask is a PNG of the whole image, transparent outside the region. A vector has an area if it is closed and has no
curves.
"""

from __future__ import annotations

import os
import re
from functools import partial
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse
from xml.etree.ElementTree import Element

import numpy as np

from ..dataset_errors import DatasetError
from ..image_header import IMAGE_SUFFIXES
from .encodings import decode_base64, decode_brush, decode_png_mask
from .masks import box_ring, check_points, check_size, ellipse_ring, tight_crop
from .shapes import ClassInfo, Dataset, ImageAnnotation, Mask, Polygon, Shape
from .tree import Tree, hex_color, read_json, read_xml, split_of

NAME = "label-studio"
NO_AREA = frozenset(
    {"keypoint", "keypointlabels", "vector", "vectorlabels", "choices", "textarea", "rating", "relation"}
)


def tasks_of(content: Any) -> list[dict[str, Any]]:
    """Returns the tasks in parsed JSON; an empty list if it is not from Label Studio."""
    tasks = content if isinstance(content, list) else [content]
    return [task for task in tasks if isinstance(task, dict) and _annotations(task) is not None]


def recognize(tree: Tree) -> bool:
    """Returns whether a tree of files has this format; see `formats`."""
    return any(map(tasks_of, tree.samples(".json").values()))


def open_dataset(tree: Tree) -> Dataset:
    """Returns the dataset in a tree of files; see `formats`."""
    dataset = Dataset(NAME, {}, read, _classes(tree))
    for file in tree.having(".json"):
        path = str(tree.path(file))
        try:
            content = read_json(path)
        except DatasetError as error:
            dataset.faults.append(error)
            continue
        split = split_of(os.path.basename(file), os.path.dirname(file))
        for index, task in enumerate(content if isinstance(content, list) else [content]):
            name = f"task {task['id']}" if isinstance(task, dict) and "id" in task else f"task at {index}"
            if not tasks_of(task):
                text = f"{name}: not a task with annotations. Export it again or remove it."
                dataset.faults.append(DatasetError(text, path, "bad annotation entry"))
            elif f"{file}: {name}" in dataset.items:
                text = f"{name} occurs twice. Remove one of the two."
                dataset.faults.append(DatasetError(text, path, "duplicate annotation"))
            else:
                dataset.items[f"{file}: {name}"] = {"file": path, "task": task, "name": name, "split": split}
    return dataset


def read(item: dict[str, Any]) -> ImageAnnotation:
    """Reads one task."""
    file, task, name = item["file"], item["task"], item["name"]
    annotations = _annotations(task)
    kept = [a for a in annotations if not a.get("was_cancelled")]
    chosen = next((a for a in kept if a.get("ground_truth")), kept[0] if kept else {"result": []})
    results = [r for r in chosen["result"] if isinstance(r, dict)]
    size = None
    for result in results:
        if "original_width" in result:
            size = check_size(result.get("original_height"), result.get("original_width"))
            break
    annotation = ImageAnnotation(file, _image_names(task), size, split=item["split"])
    if len(kept) > 1:
        annotation.notes["tasks with several annotations: one was taken"] += 1
    for region, parts in _regions(results).items():
        where = f"{name}, region {region}"
        with annotation.guard(where):
            for part in parts:
                if "original_width" in part and check_size(part["original_height"], part["original_width"]) != size:
                    raise ValueError("its original_width and original_height differ from the other regions'")
            kinds = {str(part.get("type", "")) for part in parts}
            label = next(filter(None, map(_label_of, parts)), None)
            geometry = next((g for g in (_geometry(p["value"], size) for p in parts if "value" in p) if g), None)
            if geometry is None:
                if kinds <= NO_AREA:
                    annotation.notes[f"shapes without an area left out ({', '.join(sorted(kinds))})"] += 1
                    continue
                raise ValueError("it has neither points, a box, an ellipse nor a brush")
            if label is None:
                raise ValueError("it has no class")
            isbox = all("width" in p.get("value", {}) and "points" not in p["value"] for p in parts)
            annotation.shapes.append(Shape(label, geometry, f"{where} ({label})", isbox=isbox))
    return annotation


def _annotations(task: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Returns the annotations of a task; converts a minimal export (lists of regions by name) to the full form."""
    found = task.get("annotations", task.get("completions"))
    if isinstance(found, list) and all(isinstance(a, dict) and isinstance(a.get("result"), list) for a in found):
        return found if isinstance(task.get("data"), dict) else None
    regions = []
    for values in task.values():
        if isinstance(values, list) and values and isinstance(values[0], dict) and "original_width" in values[0]:
            for value in values:
                if isinstance(value, dict):
                    sides = {key: value.get(key) for key in ("original_width", "original_height")}
                    regions.append({"value": value, **sides, "id": value.get("id", f"#{len(regions)}")})
    return [{"result": regions}] if regions else None


def _regions(results: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    regions: dict[str, list[dict[str, Any]]] = {}
    for index, result in enumerate(results):
        if result.get("type") != "relation":
            regions.setdefault(str(result.get("id", f"#{index}")), []).append(result)
    return regions


def _label_of(result: dict[str, Any]) -> str | None:
    """Returns the class of a result: the first entry in its list of labels, whatever the name of the list."""
    value = result.get("value")
    if not isinstance(value, dict):
        return None
    for key, names in value.items():
        if key.endswith("labels") and isinstance(names, list) and names and isinstance(names[0], str) and names[0]:
            return names[0]
    return None


def _geometry(value: dict[str, Any], size: tuple[int, int] | None) -> Polygon | Mask | None:
    """Returns the geometry of a region in pixels; None if it has no area.

    Raises:
        ValueError: the region is invalid.
    """
    if "rle" in value:
        data = value["rle"]
        return Mask(partial(_brush, data))
    if "imageDataURL" in value:
        return Mask(partial(_bitmask, value["imageDataURL"]))
    if "vertices" in value:
        if not value.get("closed"):
            return None
        if any(vertex.get("isBezier") for vertex in value["vertices"]):
            raise ValueError("it has curves, which are not read; draw it as a polygon")
        value = {"points": [[vertex["x"], vertex["y"]] for vertex in value["vertices"]]}
    known = {"points": 2, "radiusX": 2, "width": 1}
    if not any(key in value for key in known) or ("width" in value and "height" not in value and "points" not in value):
        return None
    if size is None:
        raise ValueError("it has no original_width and original_height")
    scale = np.array([size[1], size[0]]) / 100
    degrees = float(value.get("rotation") or 0)
    if "points" in value:
        return Polygon([[check_points(value["points"], 3) * scale]])
    x, y = check_points([value["x"], value["y"]]).ravel() * scale
    if "radiusX" in value:
        rx, ry = check_points([value["radiusX"], value["radiusY"]]).ravel() * scale
        return Polygon([[ellipse_ring(x, y, rx, ry, degrees)]])
    width, height = check_points([value["width"], value["height"]]).ravel() * scale
    return Polygon([[box_ring(x, y, x + width, y + height, degrees, (x, y))]])


def _brush(data: Any, height: int, width: int) -> Any:
    return tight_crop(decode_brush(data, height, width))


def _bitmask(url: str, height: int, width: int) -> Any:
    mask = decode_png_mask(decode_base64(url))
    if mask.shape != (height, width):
        raise ValueError(f"its bitmask is {mask.shape[1]}x{mask.shape[0]}, its image {width}x{height}")
    return tight_crop(mask)


def _image_names(task: dict[str, Any]) -> list[str]:
    """Returns candidates for the image: texts in the task's data that look like an image, then the upload's name."""
    data = task["data"] if isinstance(task.get("data"), dict) else task
    texts = [text for text in data.values() if isinstance(text, str)]
    names = []
    for text in texts:
        url = urlparse(text)
        path = unquote(parse_qs(url.query).get("d", [url.path])[0])
        if os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES:
            names.append(path)
    upload = task.get("file_upload")
    if isinstance(upload, str):
        names.append(upload)
    # Uploads get a prefix of 8 hexadecimal digits, which the user's file does not have.
    plain = [re.sub(r"^[0-9a-f]{8}-", "", name.rsplit("/", 1)[-1]) for name in names]
    return list(dict.fromkeys([*names, *plain])) or texts


def _classes(tree: Tree) -> list[ClassInfo]:
    """Returns the labels of the project configuration, if it is in the folder."""
    classes: dict[str, ClassInfo] = {}
    for file in (f for f in tree.files if f.lower().endswith(".xml")):
        try:
            root: Element = read_xml(str(tree.path(file)))
        except DatasetError:
            continue
        for group in root.iter():
            if group.tag.endswith("Labels") and not group.tag.startswith(("KeyPoint", "Vector")):
                for label in group.iterfind("Label"):
                    if label.get("value"):
                        color = hex_color(label.get("background"))
                        classes.setdefault(label.get("value"), ClassInfo(label.get("value"), color=color))
    return list(classes.values())

"""Reads Labelbox exports: the older JSON list and the current newline-delimited JSON.

Polygons and boxes have an area. Masks are stored on Labelbox's server, not in the file; they are reported as missing.
Later objects are in front.
"""

from __future__ import annotations

import json
import os
from typing import Any

from ..dataset_errors import DatasetError
from .masks import box_ring, check_points, check_size
from .shapes import Dataset, ImageAnnotation, Polygon, Shape, check_label
from .tree import Tree, read_json, read_text, split_of

NAME = "labelbox"


def is_row(row: Any) -> bool:
    """Returns whether a JSON value is a row of an export."""
    if not isinstance(row, dict):
        return False
    old = isinstance(row.get("Label"), dict) and ("External ID" in row or "Labeled Data" in row)
    return old or (isinstance(row.get("data_row"), dict) and isinstance(row.get("projects"), dict))


def recognize(tree: Tree) -> bool:
    """Returns whether a tree of files has this format; see `formats`."""
    if any(isinstance(c, list) and any(map(is_row, c[:20])) for c in tree.samples(".json").values()):
        return True
    return any(map(is_row, (_first_line(tree, file) for file in tree.having(".ndjson", ".jsonl"))))


def open_dataset(tree: Tree) -> Dataset:
    """Returns the dataset in a tree of files; see `formats`."""
    dataset = Dataset(NAME, {}, read)
    for file in tree.having(".json", ".ndjson", ".jsonl"):
        path = str(tree.path(file))
        for index, row in enumerate(_rows(path, dataset)):
            if is_row(row):
                split = split_of(os.path.basename(file), os.path.dirname(file))
                dataset.items[f"{file}: row {index}"] = {
                    "file": path,
                    "row": row,
                    "name": f"row {index}",
                    "split": split,
                }
            else:
                text = f"row {index} is not a row of Labelbox. Export it again or remove it."
                dataset.faults.append(DatasetError(text, path, "bad annotation entry"))
    return dataset


def read(item: dict[str, Any]) -> ImageAnnotation:
    """Reads one row."""
    row, file = item["row"], item["file"]
    if "Label" in row:
        name, size, objects = str(row.get("External ID") or row.get("Labeled Data")), None, row["Label"].get("objects")
    else:
        name, media = str(row["data_row"].get("external_id") or row["data_row"].get("id")), row.get("media_attributes")
        size = check_size(media["height"], media["width"]) if isinstance(media, dict) and media.get("height") else None
        objects = []
        for project in row["projects"].values():
            for label in project.get("labels", ())[:1]:
                objects += label["annotations"]["objects"]
    annotation = ImageAnnotation(file, [name], size, split=item["split"])
    for index, entry in enumerate(objects or ()):
        where = f"{item['name']} ({name}), object {index}"
        with annotation.guard(where):
            label = check_label(entry.get("title") or entry.get("name") or entry.get("value"))
            if "polygon" in entry:
                points = check_points([[point["x"], point["y"]] for point in entry["polygon"]], 3)
                annotation.shapes.append(Shape(label, Polygon([[points]]), f"{where} ({label})"))
            elif "bbox" in entry or "bounding_box" in entry:
                box = entry.get("bbox") or entry["bounding_box"]
                left, top, width, height = (float(box[key]) for key in ("left", "top", "width", "height"))
                ring = check_points(box_ring(left, top, left + width, top + height))
                annotation.shapes.append(Shape(label, Polygon([[ring]]), f"{where} ({label})", isbox=True))
            elif "point" in entry or "line" in entry:
                kind = "point" if "point" in entry else "line"
                annotation.notes[f"shapes without an area left out ({kind})"] += 1
            else:
                raise ValueError("its mask is on Labelbox's server, not in the file: export polygons, or download it")
    return annotation


def _rows(path: str, dataset: Dataset) -> list[Any]:
    try:
        if path.lower().endswith(".json"):
            content = read_json(path)
            return content if isinstance(content, list) else []
        lines = read_text(path).splitlines()
    except DatasetError as error:
        dataset.faults.append(error)
        return []
    return [_parsed(line) for line in lines if line.strip()]


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _first_line(tree: Tree, file: str) -> Any:
    try:
        return _parsed((read_text(str(tree.path(file))).splitlines() or [""])[0])
    except DatasetError:
        return None

"""Converts the project JSON and the CSV export of VGG Image Annotator 3 to the images and regions of version 2.

Version 3 stores regions apart from the files: an entry of `metadata` belongs to a view, which shows files. `xy` is a
shape's number and coordinates; `av` maps the ids of attributes to texts, or to the ids of the attribute's options.
Videos, sounds and views of several images are reported. Entries without `xy` describe a file or a time, not an area.
"""

from __future__ import annotations

import csv
import json
import os
import posixpath
from collections import defaultdict
from typing import Any

import numpy as np

from ..image_header import IMAGE_SUFFIXES
from .masks import check_points

PARTS = ("project", "attribute", "file", "view", "metadata")
IMAGE = 2  # `type` of a file
_TEXT = 1  # `type` of an attribute whose values are not ids of options
_HEADER = "# CSV_HEADER = "
_COLUMNS = ("metadata_id", "file_list", "spatial_coordinates", "metadata")


def is_csv(text: str) -> bool:
    """Returns whether a text is a CSV export of version 3."""
    header = next((line for line in text.splitlines() if line.startswith(_HEADER)), "")
    return set(header.removeprefix(_HEADER).split(",")) >= set(_COLUMNS)


def from_csv(text: str) -> dict[str, Any]:
    """Returns a CSV export as a project; a row that cannot be read becomes an entry that `images_of` keeps invalid."""
    lines = text.splitlines()
    comments = dict(line[2:].split(" = ", 1) for line in lines if line.startswith("# ") and " = " in line)
    attributes = _json(comments.get("ATTRIBUTE", comments.get("ATTRIBUTES", "{}")))
    if isinstance(attributes, dict):  # older versions export the names alone
        attributes = {k: v if isinstance(v, dict) else {"aname": v} for k, v in attributes.items()}
    project: dict[str, Any] = {"project": {}, "attribute": attributes or {}, "file": {}, "view": {}, "metadata": {}}
    columns = comments["CSV_HEADER"].split(",")
    for row in csv.DictReader((line for line in lines if line and not line.startswith("#")), columns):
        view = row["file_list"] or ""
        names = _json(view)
        for name in names if isinstance(names, list) else ():
            isimage = os.path.splitext(str(name))[1].lower() in IMAGE_SUFFIXES
            project["file"][str(name)] = {"src": str(name), "type": IMAGE if isimage else 0}
        project["view"][view] = {"fid_list": names}
        entry = {"vid": view, "xy": _json(row["spatial_coordinates"]), "av": _json(row["metadata"])}
        project["metadata"][row["metadata_id"] or ""] = entry
    return project


def _json(text: str | None) -> Any:
    try:
        return json.loads(text or "")
    except ValueError:
        return None


def is_project(content: Any) -> bool:
    """Returns whether parsed JSON is a project of version 3."""
    return isinstance(content, dict) and all(isinstance(content.get(part), dict) for part in PARTS)


def images_of(content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns {view id: image} of a project.

    An image has a `filename`, its folder-qualified `names`, `regions` for `as_version_2`, the table `attributes`, and a
    `problem` if it cannot be read.
    """
    regions: dict[str, dict[str, Any]] = defaultdict(dict)
    for key, entry in content["metadata"].items():
        if not isinstance(entry, dict) or entry.get("xy") != []:
            view = str(entry.get("vid")) if isinstance(entry, dict) else ""
            regions[view if view in content["view"] else ""][key] = entry
    images = {}
    for view, found in regions.items():
        names, problem = _files_of(content, view)
        last = posixpath.basename(names[0].replace("\\", "/")) if names else f"of view {view!r}"
        images[f"view {view}"] = {
            "filename": last, "names": names, "regions": found, "attributes": content["attribute"], "problem": problem,
        }  # fmt: skip
    return images


def _files_of(content: dict[str, Any], view: str) -> tuple[list[str], str | None]:
    """Returns the candidates for the image of a view, and a problem, if the view does not show a single image."""
    try:
        ids = content["view"][view]["fid_list"]
        files = [content["file"][str(identity)] for identity in ids]
        names = [str(name) for file in files for name in (file.get("src"), file.get("fname")) if name]
        kinds = [file.get("type", IMAGE) for file in files]
    except (KeyError, TypeError, AttributeError):
        return [], f"the regions of view {view!r} have no view with a list of files. Export the project again."
    names = [name.removeprefix("file://") for name in names if not name.startswith("data:")]
    if len(files) != 1:
        return names, f"view {view!r} shows {len(files)} files: only views of one image are read. Split or remove it."
    if kinds[0] != IMAGE:
        return names, f"{(names or ['its file'])[-1]} is a video or sound. Extract its images, or remove it."
    return names, None


def as_version_2(region: Any, attributes: dict[str, Any]) -> dict[str, Any]:
    """Returns a region with the `shape_attributes` and `region_attributes` of version 2.

    Raises:
        ValueError, KeyError, TypeError: the region is invalid.
    """
    return {
        "shape_attributes": _shape(region["xy"]),
        "region_attributes": dict(_attribute(attributes, key, value) for key, value in region["av"].items()),
    }


def _shape(xy: list[float]) -> dict[str, Any]:
    kind, *values = xy
    if kind in (1, 5, 6):
        return {"name": "point" if kind == 1 else "polyline"}
    if kind == 7:
        xs, ys = check_points(values, 3).T.tolist()
        return {"name": "polygon", "all_points_x": xs, "all_points_y": ys}
    if kind == 8:  # the leftmost, top, rightmost and bottom point, in any order
        points = check_points(values, 2)
        values = [*points.min(0).tolist(), *np.ptp(points, axis=0).tolist()]
    if kind == 9:
        values = _circle_through(check_points(values, 3))
    shapes = {
        2: ("rect", ("x", "y", "width", "height")), 3: ("circle", ("cx", "cy", "r")),
        4: ("ellipse", ("cx", "cy", "rx", "ry")), 8: ("rect", ("x", "y", "width", "height")),
        9: ("circle", ("cx", "cy", "r")),
    }  # fmt: skip
    if kind not in shapes:
        raise ValueError(f"the shape {kind!r} is not known")
    name, keys = shapes[kind]
    return {"name": name, **dict(zip(keys, values, strict=True))}


def _circle_through(points: np.ndarray) -> list[float]:
    """Returns x, y and the radius of the circle through three points (3, 2)."""
    try:
        center = np.linalg.solve(2 * (points[1:3] - points[0]), (points[1:3] ** 2 - points[0] ** 2).sum(1))
    except np.linalg.LinAlgError:
        raise ValueError("the three points of its circle are on a line") from None
    return [*center.tolist(), float(np.hypot(*(points[0] - center)))]


def _attribute(attributes: dict[str, Any], key: str, value: Any) -> tuple[str, Any]:
    """Returns the name and the value of an attribute; a checkbox has the ids of its options, separated by commas."""
    attribute = attributes[key]
    if attribute.get("type", _TEXT) != _TEXT:
        chosen = [part for part in str(value).split(",") if part]
        value = attribute["options"][chosen[0]] if chosen else ""
    return str(attribute["aname"]), value

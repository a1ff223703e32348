"""Prepares Mapillary Vistas v1.2 and v2.0: uses its panoptic folder if present, else converts the instance maps.

`instances/*.png` (16 bit) holds 256 * class + instance, class = index into the labels of the version's config. Labels
with `evaluate: false` are void; an evaluated group label ("...-group") is a crowd of its class. Category ids are the
positions, counted from 1, among the evaluated labels that are not groups. The segment id is
256 * (class + 1) + instance, which is never 0.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UserError
from ..datasets.vistas import annotation_folder, config_file, vistas_categories, vistas_files
from .runner import Converted, Source, SplitPlan
from .segments import check_image, describe_segments, read_id_map


@dataclass(frozen=True)
class Labels:
    """The labels of a config.

    categories: the COCO panoptic categories of the evaluated labels that are not groups, in the order of the config.
    table: for each class index of the instance maps, (category id, iscrowd), or (0, 0) for void.
    """

    categories: list[dict[str, Any]]
    table: tuple[tuple[int, int], ...]


def plan_split(root: Path, split: str, version: str = "v1.2") -> SplitPlan | None:
    """Lists the annotations of a split to convert; None if the dataset's own panoptic JSON exists.

    Raises UserError if the config is missing, is invalid, or, for v1.2, has other classes than the 65.
    """
    files = vistas_files(str(root), split, version)
    panoptic_json = Path(files.panoptic_json)
    info = {"description": f"made from the instance maps of Mapillary Vistas {version} by panoptic_fusion"}
    if panoptic_json.is_file() and not _has_info(panoptic_json, info):
        return None
    config = config_file(root, split, version)
    labels = read_labels(config)
    if version == "v1.2" and [c["name"] for c in labels.categories] != [c["name"] for c in vistas_categories()]:
        raise UserError(
            f"{config}: its {len(labels.categories)} evaluated classes are not the {len(vistas_categories())} of "
            "Mapillary Vistas v1.2; use the v1.2 annotations and config of your release"
        )
    sources = [
        Source(path.stem, f"{path.stem}.jpg", str(path), path.name, (str(config),))
        for path in sorted((annotation_folder(root, split, version) / "instances").glob("*.png"))
    ]
    convert = partial(convert_instances, labels, files.images)
    return SplitPlan(panoptic_json, Path(files.panoptic_root), labels.categories, sources, convert, info)


def read_labels(config: Path) -> Labels:
    """Reads a config. Raises UserError if it is missing or not a config of Mapillary Vistas."""
    if not config.is_file():
        raise UserError(f"{config} is missing: it comes with the dataset and defines the instance maps")
    try:
        labels = [
            (str(x["name"]), str(x["readable"]), bool(x["evaluate"]), int(bool(x["instances"])), list(x["color"]))
            for x in json.loads(config.read_bytes())["labels"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{config} is not the config.json of Mapillary Vistas ({error!r})") from error
    categories = [
        {"id": number, "name": readable, "supercategory": name, "isthing": isthing, "color": color}
        for number, (name, readable, _, isthing, color) in enumerate(
            (label for label in labels if label[2] and not _is_group(label[0])), start=1
        )
    ]
    classes = [c["supercategory"] for c in categories]
    things = {c["id"] for c in categories if c["isthing"]}
    table = []
    for name, _, evaluated, _, _ in labels:
        category_id = _category_of(name, classes) if evaluated else 0
        table.append((category_id, int(_is_group(name) and category_id in things)))
    return Labels(categories, tuple(table))


def convert_instances(labels: Labels, images: str, source: Source) -> Converted:
    """Converts one instance map; `images` is the folder of its image.

    Raises ValueError if the map holds a class that is not in the config.
    """
    table = labels.table
    id_map = read_id_map(source.path)
    check_image(Path(images, source.image_name), id_map.shape, source.path)
    if id_map.max() >= 256 * len(table):
        raise ValueError(f"{source.path}: the config has {len(table)} labels, no class {id_map.max() // 256}")
    things = {c["id"] for c in labels.categories if c["isthing"]}
    # Things get one segment per value; stuff and group classes get one per class, whatever the instance number.
    lookup = np.arange(256 * len(table), dtype=np.int32) + 256
    categories = {}
    for index, (category_id, iscrowd) in enumerate(table):
        first = 256 * (index + 1)
        if category_id not in things or iscrowd:
            lookup[256 * index : 256 * (index + 1)] = first
        if category_id:
            categories.update(dict.fromkeys(range(first, first + 256), (category_id, iscrowd)))
    pixels, segments = describe_segments(lookup[id_map], categories)
    return Converted(pixels, segments)


def _has_info(panoptic_json: Path, info: dict[str, str]) -> bool:
    try:
        return json.loads(panoptic_json.read_bytes()).get("info") == info
    except (ValueError, AttributeError) as error:
        raise UserError(f"{panoptic_json} is not a COCO panoptic JSON; download it again, or remove it") from error


def _is_group(name: str) -> bool:
    return name.endswith("group")


def _category_of(name: str, classes: list[str]) -> int:
    """Returns the category id of a label's name; a group has the id of its class, or of the parent of its class."""
    if name in classes:
        return classes.index(name) + 1
    stem = name.removesuffix("group").rstrip("-_")
    for candidate in (stem, stem.rsplit("--", 1)[0]):
        if candidate in classes:
            return classes.index(candidate) + 1
    return 0

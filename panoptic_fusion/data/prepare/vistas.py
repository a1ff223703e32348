"""Mapillary Vistas v1.2: its panoptic folder where it is there, else made from the instance maps.

`instances/*.png` (16 bit) holds 256 * class + instance, class = index into the labels of config.json. Labels with
`evaluate: false` are void; a group label ("...-group") is a crowd of its class. Category ids are 1..65, the position
among the evaluated labels that are no groups; the segment id is 256 * (class + 1) + instance, which is never 0.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UserError
from ..datasets.vistas import FOLDERS, vistas_categories, vistas_files
from .runner import Converted, Source, SplitPlan
from .segments import check_image, describe_segments, read_id_map

INFO = {"description": "made from the instance maps of Mapillary Vistas v1.2 by panoptic_fusion"}


def annotation_folder(root: Path, split: str) -> Path:
    """Where the official annotations of a split are."""
    return root / FOLDERS[split]


def plan_split(root: Path, split: str) -> SplitPlan | None:
    """Lists what is to convert of a split; None if the data set's own panoptic json is there.

    Raises UserError if config.json is not that of v1.2.
    """
    files = vistas_files(str(root), split)
    panoptic_json = Path(files.panoptic_json)
    if panoptic_json.is_file() and not _is_ours(panoptic_json):
        return None
    table = class_table(root / "config.json")
    sources = [
        Source(path.stem, f"{path.stem}.jpg", str(path), path.name)
        for path in sorted((root / FOLDERS[split] / "instances").glob("*.png"))
    ]
    convert = partial(convert_instances, table)
    return SplitPlan(panoptic_json, Path(files.panoptic_root), vistas_categories(), sources, convert, INFO)


def class_table(config: Path) -> tuple[tuple[int, int], ...]:
    """What each class index of the instance maps means: (category id, iscrowd), or (0, 0) for void.

    Raises UserError if the evaluated labels of config.json are not the 65 classes of v1.2 in their order.
    """
    if not config.is_file():
        raise UserError(f"{config} is missing: it comes with the data set and says what the instance maps mean")
    try:
        labels = json.loads(config.read_bytes())["labels"]
        named = [(label["name"], label["readable"], bool(label["evaluate"])) for label in labels]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{config} is not the config.json of Mapillary Vistas ({error!r})") from error
    classes = [name for name, _, evaluated in named if evaluated and not _is_group(name)]
    readable = [text for name, text, evaluated in named if evaluated and not _is_group(name)]
    categories = vistas_categories()
    if readable != [c["name"] for c in categories]:
        raise UserError(
            f"{config}: its {len(readable)} evaluated classes are not the {len(categories)} of Mapillary Vistas v1.2; "
            "of a later release, use the v1.2 annotations and config"
        )
    things = {c["id"] for c in categories if c["isthing"]}
    table = []
    for name, _, evaluated in named:
        category_id = _category_of(name, classes) if evaluated else 0
        table.append((category_id, int(_is_group(name) and category_id in things)))
    return tuple(table)


def convert_instances(table: tuple[tuple[int, int], ...], source: Source) -> Converted:
    """Converts one instance map. Raises ValueError if it holds a class that config.json does not have."""
    id_map = read_id_map(source.path)
    check_image(Path(source.path).parents[1] / "images" / source.image_name, id_map.shape, source.path)
    if id_map.max() >= 256 * len(table):
        raise ValueError(f"{source.path}: config.json has {len(table)} labels, no class {id_map.max() // 256}")
    things = {c["id"] for c in vistas_categories() if c["isthing"]}
    # Things have one segment a value; stuff one a class, whatever the instance number, and so has a group class.
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


def _is_ours(panoptic_json: Path) -> bool:
    try:
        return json.loads(panoptic_json.read_bytes()).get("info") == INFO
    except (ValueError, AttributeError) as error:
        raise UserError(f"{panoptic_json} is not a COCO panoptic json; get it again, or remove it") from error


def _is_group(name: Any) -> bool:
    return isinstance(name, str) and name.endswith("group")


def _category_of(name: str, classes: list[str]) -> int:
    """The category id of a label's name; a group has that of the class it is a group of, or of the one above it."""
    if name in classes:
        return classes.index(name) + 1
    stem = name.removesuffix("group").rstrip("-_")
    for candidate in (stem, stem.rsplit("--", 1)[0]):
        if candidate in classes:
            return classes.index(candidate) + 1
    return 0

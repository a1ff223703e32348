"""Mapillary Vistas: v1.2 with 65 classes (37 things, 28 stuff), and v2.0 with the classes of its own annotations.

A download of release 2.0 holds both: `config_v1.2.json`, `config_v2.0.json`, `{training,validation}/images`, and the
annotations in `{training,validation}/{v1.2,v2.0}`. Release 1.2 had `config.json`, and the annotations next to `images`.
Copies with split folders named train and val are also found.
"""

from __future__ import annotations

import csv
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from ..coco_panoptic import PanopticFiles
from .builtin import BuiltinDataset

FOLDERS = {"train": ("training", "train"), "val": ("validation", "val"), "test": ("testing", "test")}
PANOPTIC_JSON = {"v1.2": "panoptic_2018.json", "v2.0": "panoptic_2020.json"}


def split_folder(root: Path, split: str) -> Path:
    """Returns the folder of a split; uses the official name unless only the other one exists."""
    official, other = (root / name for name in FOLDERS[split])
    return other if other.is_dir() and not official.is_dir() else official


def annotation_folder(root: Path, split: str, version: str = "v1.2") -> Path:
    """Returns the folder that holds `instances` and `panoptic` of a split, in either layout."""
    folder = split_folder(root, split)
    return folder if _is_old_layout(folder, version) else folder / version


def config_file(root: Path, split: str, version: str = "v1.2") -> Path:
    """Returns the file that lists the labels of a version, in the layout of a split."""
    old = _is_old_layout(split_folder(root, split), version)
    return root / ("config.json" if old else f"config_{version}.json")


def vistas_files(root: str, split: str, version: str = "v1.2") -> PanopticFiles:
    """Returns the paths of a split, "train", "val" or "test", in the layout found on disk (default: release 2.0)."""
    panoptic = annotation_folder(Path(root), split, version) / "panoptic"
    images = split_folder(Path(root), split) / "images"
    return PanopticFiles(str(images), str(panoptic), str(panoptic / PANOPTIC_JSON[version]))


def vistas_categories() -> list[dict[str, Any]]:
    """Returns the categories of the official panoptic JSON of v1.2: ids 1..65 in the order of its config."""
    with (resources.files(__package__) / "vistas_classes.csv").open(encoding="utf-8", newline="") as file:
        return [
            {
                "id": int(row["id"]),
                "name": row["name"],
                "supercategory": row["supercategory"],
                "isthing": int(row["is_thing"]),
                "color": [int(row[c]) for c in "rgb"],
            }
            for row in csv.DictReader(file)
        ]


def _is_old_layout(folder: Path, version: str) -> bool:
    found = any((folder / kind).is_dir() for kind in ("instances", "panoptic"))
    return found and version == "v1.2" and not (folder / version).is_dir()


VISTAS = BuiltinDataset(
    key="vistas",
    names={"train": "vistas_train", "val": "vistas_val", "test": "vistas_test"},
    files=vistas_files,
    categories=vistas_categories,
    layout="config_v1.2.json, (training|validation)/{{images/*.jpg, v1.2/instances/*.png, v1.2/panoptic/*.png, "
    "v1.2/panoptic/panoptic_2018.json}}, or as in release 1.2 config.json and the folders without v1.2/",
)

VISTAS_V2 = BuiltinDataset(
    key="vistas_v2",
    folder="vistas",
    names={"train": "vistas_v2_train", "val": "vistas_v2_val", "test": "vistas_v2_test"},
    files=partial(vistas_files, version="v2.0"),
    categories=None,
    layout="config_v2.0.json, (training|validation)/{{images/*.jpg, v2.0/instances/*.png, v2.0/panoptic/*.png, "
    "v2.0/panoptic/panoptic_2020.json}}",
)

"""Mapillary Vistas v1.2: 65 classes (37 things, 28 stuff), in the order of its config.json (vistas_classes.csv)."""

from __future__ import annotations

import csv
import os
from importlib import resources
from typing import Any

from ..coco_panoptic import PanopticFiles
from .builtin import BuiltinDataset

FOLDERS = {"train": "training", "val": "validation"}


def vistas_files(root: str, split: str) -> PanopticFiles:
    """The official layout of v1.2; `split` is train or val."""
    folder = os.path.join(root, FOLDERS[split])
    return PanopticFiles(
        images=os.path.join(folder, "images"),
        panoptic_root=os.path.join(folder, "panoptic"),
        panoptic_json=os.path.join(folder, "panoptic", "panoptic_2018.json"),
    )


def vistas_categories() -> list[dict[str, Any]]:
    """The categories of the official panoptic json: ids 1..65 in the order of config.json."""
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


VISTAS = BuiltinDataset(
    key="vistas",
    names={"train": "vistas_train", "val": "vistas_val"},
    files=vistas_files,
    categories=vistas_categories,
    layout="config.json, (training|validation)/{{images/*.jpg, instances/*.png, panoptic/panoptic_2018.json, "
    "panoptic/*.png}}",
)

"""India Driving Dataset (IDD) at level 3: 26 classes (9 things, 17 stuff), from its label table (idd_labels.csv).

Several labels share a level 3 id. Such a class is named after all of them ("bridge/tunnel") and has the color of the
first label that counts in the benchmark's evaluation.
"""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from ..coco_panoptic import PanopticFiles
from .builtin import BuiltinDataset

VOID_LEVEL3 = 255


@dataclass(frozen=True)
class IddLabel:
    """A row of the label table: `level3_id` is the class (255: void), `color` RGB."""

    name: str
    level3_id: int
    category: str
    has_instances: bool
    ignore_in_eval: bool
    color: tuple[int, int, int]


@cache
def idd_labels() -> dict[str, IddLabel]:
    """Returns a mapping from label name in the polygon JSON files to its row, in the official order."""
    with (resources.files(__package__) / "idd_labels.csv").open(encoding="utf-8", newline="") as file:
        return {
            row["name"]: IddLabel(
                row["name"],
                int(row["level3_id"]),
                row["category"],
                row["has_instances"] == "1",
                row["ignore_in_eval"] == "1",
                tuple(int(row[c]) for c in "rgb"),
            )
            for row in csv.DictReader(file)
        }


def idd_categories() -> list[dict[str, Any]]:
    """Returns one category per level 3 id; the category id is the level 3 id."""
    levels: dict[int, list[IddLabel]] = {}
    for label in idd_labels().values():
        if label.level3_id != VOID_LEVEL3:
            levels.setdefault(label.level3_id, []).append(label)
    return [
        {
            "id": level3_id,
            "name": "/".join(label.name for label in members),
            "supercategory": members[0].category,
            "isthing": int(members[0].has_instances),
            "color": list(next((m for m in members if not m.ignore_in_eval), members[0]).color),
        }
        for level3_id, members in sorted(levels.items())
    ]


def idd_files(root: str, split: str) -> PanopticFiles:
    """Returns the official folders, with the converted JSON and PNGs next to them; `split` is train, val or test."""
    return PanopticFiles(
        images=os.path.join(root, "leftImg8bit", split),
        panoptic_root=os.path.join(root, "gtFine", f"idd_panoptic_{split}"),
        panoptic_json=os.path.join(root, "gtFine", f"idd_panoptic_{split}.json"),
    )


IDD = BuiltinDataset(
    key="idd",
    names={"train": "idd_train", "val": "idd_val", "test": "idd_test"},
    files=idd_files,
    categories=idd_categories,
    layout="leftImg8bit/{split}/<drive>/*_leftImg8bit.png, gtFine/{split}/<drive>/*_gtFine_polygons.json, "
    "gtFine/idd_panoptic_{split}.json, gtFine/idd_panoptic_{split}/*.png",
)

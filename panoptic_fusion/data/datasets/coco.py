"""COCO panoptic 2017: 133 classes (80 things, 53 stuff), with the instances json whose masks overlap.

detectron2 has registered `coco_2017_train` (instances only) and `coco_2017_train_panoptic` (another label space)
already, so the names here are `coco_panoptic_2017_train` and `coco_panoptic_2017_val`.
"""

from __future__ import annotations

import os
from typing import Any

from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from ..coco_panoptic import PanopticFiles
from .builtin import BuiltinDataset


def coco_files(root: str, split: str) -> PanopticFiles:
    """The official layout; `split` is train or val."""
    return PanopticFiles(
        images=os.path.join(root, f"{split}2017"),
        panoptic_root=os.path.join(root, f"panoptic_{split}2017"),
        panoptic_json=os.path.join(root, "annotations", f"panoptic_{split}2017.json"),
        instances_json=os.path.join(root, "annotations", f"instances_{split}2017.json"),
    )


def coco_categories() -> list[dict[str, Any]]:
    """detectron2's list, which is the official one."""
    return COCO_CATEGORIES


COCO = BuiltinDataset(
    key="coco",
    names={"train": "coco_panoptic_2017_train", "val": "coco_panoptic_2017_val"},
    files=coco_files,
    categories=coco_categories,
    layout="{split}2017/*.jpg, panoptic_{split}2017/*.png, annotations/panoptic_{split}2017.json, "
    "annotations/instances_{split}2017.json",
)

"""CamVid with 11 classes (3 things, 8 stuff), as grouped for SegNet; names, order, and colors are SegNet's."""

from __future__ import annotations

import os
from typing import Any

from ..coco_panoptic import PanopticFiles
from .builtin import BuiltinDataset

# name, supercategory, isthing, color; the category id is the position, from 1.
_CLASSES = (
    ("sky", "nature", 0, (128, 128, 128)),
    ("building", "construction", 0, (128, 0, 0)),
    ("pole", "object", 0, (192, 192, 128)),
    ("road", "flat", 0, (128, 64, 128)),
    ("pavement", "flat", 0, (60, 40, 222)),
    ("tree", "nature", 0, (128, 128, 0)),
    ("sign", "object", 0, (192, 128, 128)),
    ("fence", "construction", 0, (64, 64, 128)),
    ("car", "vehicle", 1, (64, 0, 128)),
    ("pedestrian", "human", 1, (64, 64, 0)),
    ("bicyclist", "human", 1, (0, 128, 192)),
)


def camvid_files(root: str, split: str) -> PanopticFiles:
    """Returns the paths that `prepare` writes; `split` is train, val, or test."""
    return PanopticFiles(
        images=os.path.join(root, "images", split),
        panoptic_root=os.path.join(root, "annotations", f"panoptic_{split}"),
        panoptic_json=os.path.join(root, "annotations", f"panoptic_{split}.json"),
    )


def camvid_categories() -> list[dict[str, Any]]:
    """Returns the 11 classes; category id = label of SegNet's annotations + 1."""
    return [
        {"id": i, "name": name, "supercategory": supercategory, "isthing": isthing, "color": list(color)}
        for i, (name, supercategory, isthing, color) in enumerate(_CLASSES, 1)
    ]


CAMVID = BuiltinDataset(
    key="camvid",
    names={split: f"camvid_{split}" for split in ("train", "val", "test")},
    files=camvid_files,
    categories=camvid_categories,
    layout="images/{split}/*.png, annotations/panoptic_{split}.json, annotations/panoptic_{split}/*.png; made from "
    "SegNet's {split}/*.png and {split}annot/*.png, or from Cambridge's 701_StillsRaw_full/*.png, "
    "LabeledApproved_full/*_L.png and label_colors.txt",
)

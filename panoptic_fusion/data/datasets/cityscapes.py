"""Cityscapes fine: 19 classes (8 things, 11 stuff), in the official order.

The list is detectron2's. It matches the list of cityscapesscripts (a test compares them), which is only required for
preparing the dataset and for the official metrics.
"""

from __future__ import annotations

import os
from typing import Any

from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES

from ..coco_panoptic import PanopticFiles
from .builtin import BuiltinDataset


def cityscapes_files(root: str, split: str) -> PanopticFiles:
    """Returns the paths that cityscapesscripts and detectron2 expect; `split` is train, val, or test."""
    return PanopticFiles(
        images=os.path.join(root, "leftImg8bit", split),
        panoptic_root=os.path.join(root, "gtFine", f"cityscapes_panoptic_{split}"),
        panoptic_json=os.path.join(root, "gtFine", f"cityscapes_panoptic_{split}.json"),
    )


def cityscapes_categories() -> list[dict[str, Any]]:
    """Returns the classes that count in evaluation; their ids are the label ids, 7 to 33."""
    return CITYSCAPES_CATEGORIES


def _metadata(root: str, split: str) -> dict[str, Any]:
    # Used by panoptic_fusion.evaluation.cityscapes: the official instanceIds and labelIds, which the test split lacks.
    return {} if split == "test" else {"cityscapes_gt_dir": os.path.join(os.path.expanduser(root), "gtFine", split)}


CITYSCAPES = BuiltinDataset(
    key="cityscapes",
    names={split: f"cityscapes_fine_{split}" for split in ("train", "val", "test")},
    files=cityscapes_files,
    categories=cityscapes_categories,
    layout="leftImg8bit/{split}/<city>/*_leftImg8bit.png, gtFine/{split}/<city>/*_gtFine_instanceIds.png, "
    "gtFine/cityscapes_panoptic_{split}.json, gtFine/cityscapes_panoptic_{split}/*.png",
    metadata=_metadata,
)

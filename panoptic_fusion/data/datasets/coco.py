"""COCO panoptic 2017: 133 classes (80 things, 53 stuff), with the instances JSON, whose masks overlap.

detectron2 already registers `coco_2017_train` (instances only) and `coco_2017_train_panoptic` (a different label
space), so this module uses the names `coco_panoptic_2017_train` and `coco_panoptic_2017_val`. The same training images
with masks from the panoptic PNGs, which do not overlap, are `coco_panoptic_2017_train_pano` (OANet, table 3).
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from ..coco_panoptic import PanopticFiles
from .builtin import BuiltinDataset


def coco_files(root: str, split: str) -> PanopticFiles:
    """Returns the paths of a split, "train", "val" or "test-dev", in detectron2's layout.

    The PNGs may also be in `annotations/panoptic_{split}2017`, where their zip extracts them and other projects expect
    them.
    """
    pngs, where_unpacked = (os.path.join(root, *folders, f"panoptic_{split}2017") for folders in ((), ("annotations",)))
    is_test = split == "test-dev"
    return PanopticFiles(
        images=os.path.join(root, "test2017" if is_test else f"{split}2017"),
        panoptic_root=where_unpacked if os.path.isdir(where_unpacked) and not os.path.isdir(pngs) else pngs,
        panoptic_json=os.path.join(root, "annotations", f"panoptic_{split}2017.json"),
        instances_json=None if is_test else os.path.join(root, "annotations", f"instances_{split}2017.json"),
    )


def _files_without_instances(root: str, split: str) -> PanopticFiles:
    return replace(coco_files(root, split), instances_json=None)


def coco_categories() -> list[dict[str, Any]]:
    """Returns detectron2's list of categories, which is the official list."""
    return COCO_CATEGORIES


COCO = BuiltinDataset(
    key="coco",
    names={split: f"coco_panoptic_2017_{split}" for split in ("train", "val", "test-dev")},
    files=coco_files,
    categories=coco_categories,
    layout="{split}2017/*.jpg, panoptic_{split}2017/*.png, annotations/panoptic_{split}2017.json, "
    "annotations/instances_{split}2017.json (the PNGs may be in annotations/panoptic_{split}2017)",
)

COCO_PANO = replace(COCO, names={"train": "coco_panoptic_2017_train_pano"}, files=_files_without_instances)

"""Registers COCO, Cityscapes, Mapillary Vistas, IDD, and CamVid when this package is imported, without opening files.

They are expected in $DETECTRON2_DATASETS/{coco,cityscapes,vistas,idd,camvid} (default: ./datasets); see
docs/datasets.md.
"""

from __future__ import annotations

import os

from .builtin import BuiltinDataset
from .camvid import CAMVID
from .cityscapes import CITYSCAPES
from .coco import COCO, COCO_PANO
from .idd import IDD
from .vistas import VISTAS, VISTAS_V2

BUILTIN: dict[str, BuiltinDataset] = {
    dataset.key: dataset for dataset in (COCO, CITYSCAPES, VISTAS, VISTAS_V2, IDD, CAMVID)
}


def datasets_root() -> str:
    """Returns $DETECTRON2_DATASETS, or ./datasets, as in detectron2."""
    return os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))


def register_all(root: str | None = None) -> list[str]:
    """Registers every split of these datasets under `root` (default: `datasets_root()`); returns their names.

    A second call with a different root moves them.
    """
    root = datasets_root() if root is None else root
    return [
        name
        for dataset in (*BUILTIN.values(), COCO_PANO)
        for name in dataset.register(os.path.join(root, dataset.folder or dataset.key))
    ]


register_all()

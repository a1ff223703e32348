"""COCO, Cityscapes, Mapillary Vistas and IDD: importing this package registers them, without looking for their files.

They are expected in $DETECTRON2_DATASETS/{coco,cityscapes,vistas,idd} (default: ./datasets), see docs/datasets.md.
"""

from __future__ import annotations

import os

from .builtin import BuiltinDataset
from .cityscapes import CITYSCAPES
from .coco import COCO
from .idd import IDD
from .vistas import VISTAS, VISTAS_V2

BUILTIN: dict[str, BuiltinDataset] = {dataset.key: dataset for dataset in (COCO, CITYSCAPES, VISTAS, VISTAS_V2, IDD)}


def datasets_root() -> str:
    """$DETECTRON2_DATASETS, or ./datasets, as in detectron2."""
    return os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))


def register_all(root: str | None = None) -> list[str]:
    """Registers every split of the four data sets under `root` (default: `datasets_root()`); returns their names.

    Called again with another root, it moves them.
    """
    root = datasets_root() if root is None else root
    return [
        name
        for dataset in BUILTIN.values()
        for name in dataset.register(os.path.join(root, dataset.folder or dataset.key))
    ]


register_all()

"""Datasets: label space, registration and reading of COCO panoptic data, the training mapper, and the checker.

Modules of this package can be imported without torch and detectron2 if they do not need them themselves. The names
below are loaded on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .coco_panoptic import (
        derive_instances_json,
        get_label_space,
        load_panoptic,
        panoptic_files,
        register_from_config,
        register_panoptic,
    )
    from .dataset_errors import DatasetError
    from .label_space import IGNORE_LABEL, ONTOLOGIES, LabelSpace

# Name -> the module of this package that defines it.
_EXPORTS = {
    "IGNORE_LABEL": "label_space",
    "ONTOLOGIES": "label_space",
    "DatasetError": "dataset_errors",
    "LabelSpace": "label_space",
    "derive_instances_json": "coco_panoptic",
    "get_label_space": "coco_panoptic",
    "load_panoptic": "coco_panoptic",
    "panoptic_files": "coco_panoptic",
    "register_from_config": "coco_panoptic",
    "register_panoptic": "coco_panoptic",
}
__all__ = [
    "IGNORE_LABEL",
    "ONTOLOGIES",
    "DatasetError",
    "LabelSpace",
    "derive_instances_json",
    "get_label_space",
    "load_panoptic",
    "panoptic_files",
    "register_from_config",
    "register_panoptic",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    globals()[name] = value
    return value

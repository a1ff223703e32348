"""Datasets: label space, registration and reading of COCO panoptic data, the training mapper, and the checker."""

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

"""Registers the datasets of a trained model's config; their names belong to that config, not to the process.

detectron2's catalogs hold one dataset per name. Two trained models may use one name for different data (fine-tuning
always writes `own_train` and `own_val`). The second dataset then gets a suffix derived from its files and classes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..errors import UserError
from .coco_panoptic import PanopticFiles, check_entries, panoptic_files, register_from_config
from .label_space import LabelSpace


def register_for_model(
    entries: Sequence[Mapping[str, Any]], names: Sequence[str], label_space: LabelSpace
) -> dict[str, str]:
    """Registers the datasets of a trained model that exist on this machine; the others get the model's classes.

    Args:
        entries: DATASETS.REGISTER of the model's config.
        names: DATASETS.TRAIN and DATASETS.TEST.
        label_space: classes of the model.

    Returns:
        Mapping from name to catalog name, only for names that already stand for another dataset.

    Raises:
        ConfigError: if an entry is invalid.
    """
    check_entries(entries)
    renamed = {}
    present = [entry for entry in entries if _is_present(entry)]
    for entry in present:
        other = f"{entry['name']}~{_digest(entry, label_space)}"
        if _is_taken(entry):
            renamed[entry["name"]] = other
            entry = {**entry, "name": other}
        register_from_config([entry])
    absent = {entry["name"]: entry for entry in entries if not _is_present(entry)}
    for name in dict.fromkeys([*names, *absent]):
        if name in renamed or (name in DatasetCatalog and name not in absent):
            continue
        if name in DatasetCatalog or not _accepts(name, label_space):
            renamed[name] = f"{name}~{_digest(absent.get(name, {}), label_space)}"
        label_space.apply_to_metadata(MetadataCatalog.get(renamed.get(name, name)))
    return renamed


def _is_present(entry: Mapping[str, Any]) -> bool:
    return os.path.exists(os.path.expanduser(os.path.expandvars(entry["panoptic_json"])))


def _is_taken(entry: Mapping[str, Any]) -> bool:
    """Returns whether the name of an entry is registered for other files."""
    if entry["name"] not in DatasetCatalog:
        return False
    try:
        return panoptic_files(entry["name"]) != PanopticFiles(**{key: entry[key] for key in entry if key != "name"})
    except UserError:
        return True


def _accepts(name: str, label_space: LabelSpace) -> bool:
    """Returns whether the metadata of a name that has no dataset is empty or has these classes."""
    present = MetadataCatalog.get(name).as_dict() if name in MetadataCatalog else {}
    if "thing_classes" not in present:
        return True
    try:
        return LabelSpace.from_metadata(MetadataCatalog.get(name)) == label_space
    except UserError:
        return False


def _digest(entry: Mapping[str, Any], label_space: LabelSpace) -> str:
    content = json.dumps([dict(entry), label_space.to_categories()], sort_keys=True, default=str)
    return hashlib.sha1(content.encode()).hexdigest()[:6]

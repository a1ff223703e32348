"""Checks that an output folder holds the run the user means to continue; `--resume` alone accepts any checkpoint."""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from panoptic_fusion.config.check import PARTS, get_config_value
from panoptic_fusion.config.read import leaves, read_config
from panoptic_fusion.data.coco_json import read_panoptic_json
from panoptic_fusion.data.coco_panoptic import PanopticFiles
from panoptic_fusion.data.label_space import LabelSpace
from panoptic_fusion.errors import UserError
from panoptic_fusion.files import write_json
from panoptic_fusion.modeling.fusion import fill_in_thresholds

logger = logging.getLogger(__name__)

ORIGIN = "origin.json"  # next to config.yaml, which has the paths of a dataset but not its images
COMPARED = ("MODEL", "INPUT")  # a run may be resumed with a different SOLVER: longer, or with a smaller batch
NOT_LOGGED = ("DATASETS.", "OUTPUT_DIR", "MODEL.DEVICE", "MODEL.WEIGHTS")  # a resumed run has its own weights
SHOWN = 5  # keys in a log line
# Keys that do not change the network or its input once a run has started.
NOT_COMPARED = ("MODEL.DEVICE", "MODEL.TRANSFER", "MODEL.TRANSFER_SYNONYMS", "INPUT.PIXEL_BUDGET")


def check_same_classes(folder: str, categories: list[dict]) -> None:
    """Checks that the training run in `folder`, if any, has these MODEL.CATEGORIES.

    Raises:
        UserError: if its categories differ.
    """
    before = _trained(folder)
    if before is None:
        return
    classes, now = (LabelSpace.from_categories(c) for c in (before.MODEL.CATEGORIES, categories))
    if not classes.same_classes(now):
        _refuse(folder, "of other classes")


def check_same_data(folder: str, data: Mapping[str, PanopticFiles], val_share: float) -> None:
    """Checks that the training run in `folder`, if any, uses this data; records in `folder` which data it is.

    Args:
        folder: existing OUTPUT_DIR, empty or of an earlier call.
        data: dataset as the user specified it, before a split.
        val_share: fraction of the images to hold out for validation if there is no "val".

    Raises:
        UserError: if the classes, folders, images or held-out fraction of the run differ.
    """
    check_same_classes(folder, read_panoptic_json(data["train"].panoptic_json).label_space.to_categories())
    origin = {"images": _hash_of_images(data), "val_share": None if "val" in data else val_share}
    path = Path(folder, ORIGIN)
    before = _trained(folder)
    if before is not None:
        trained_on = {e["name"]: e for e in before.DATASETS.REGISTER}.get(next(iter(before.DATASETS.TRAIN), ""), {})
        for key in ("images", "panoptic_root"):
            there, here = (os.path.abspath(p) for p in (trained_on.get(key, ""), getattr(data["train"], key)))
            if there != here:
                _refuse(folder, f"of the dataset in {there}, not {here}")
        known = json.loads(path.read_bytes()) if path.is_file() else origin
        if known["images"] != origin["images"]:
            _refuse(folder, "of other images in the same folder")
        if known["val_share"] != origin["val_share"]:
            _refuse(folder, f"of --val-share {known['val_share']}, not {val_share}")
    write_json(path, origin)


def check_same_network(folder: str, cfg: CfgNode) -> None:
    """Checks that the training run in `folder`, if any, has the network and the input of a config.

    Args:
        folder: OUTPUT_DIR.
        cfg: resolved config.

    Raises:
        UserError: if a key below MODEL or INPUT (except `NOT_COMPARED`) has a different value. The message names the
            first such key.
    """
    before = _trained(folder)
    if before is None:
        return
    check_same_parts(folder, cfg)
    before, cfg = fill_in_thresholds(before), fill_in_thresholds(cfg)
    for section in COMPARED:
        there, here = dict(leaves(before[section], f"{section}.")), dict(leaves(cfg[section], f"{section}."))
        for key, value in here.items():
            if key not in NOT_COMPARED and _plain(there[key]) != _plain(value):
                _refuse(folder, f"with {key} {there[key]!r}, not {value!r}")


def check_same_parts(folder: str, cfg: CfgNode) -> None:
    """Checks that the training run in `folder`, if any, has the parts that a config names.

    Args:
        folder: OUTPUT_DIR.
        cfg: resolved config.

    Raises:
        UserError: if the name of a part differs. The message names its key.
    """
    before = _trained(folder)
    for key in PARTS if before is not None else ():
        if get_config_value(before, key) != get_config_value(cfg, key):
            _refuse(folder, f"with {key} {get_config_value(before, key)!r}, not {get_config_value(cfg, key)!r}")


def log_changed_keys(folder: str, cfg: CfgNode) -> None:
    """Logs which keys differ from those of the training run in `folder`, if any, that a config resumes."""
    before = _trained(folder)
    if before is None:
        return
    there, here = (dict(leaves(fill_in_thresholds(config))) for config in (before, cfg))
    changed = [
        f"{key} {value!r} (was {there[key]!r})"
        for key, value in here.items()
        if key in there and not key.startswith(NOT_LOGGED) and _plain(there[key]) != _plain(value)
    ]
    if changed:
        more = f", and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        logger.info("The run in %s continues with other values of %s%s", folder, ", ".join(changed[:SHOWN]), more)


def _trained(folder: str) -> CfgNode | None:
    """Returns the config of the training run in a folder; None if there is no run that could be resumed."""
    if not all(Path(folder, name).is_file() for name in ("config.yaml", "last_checkpoint")):
        return None
    return read_config(Path(folder, "config.yaml"))


def _refuse(folder: str, what: str) -> None:
    hint = "choose another OUT (--output, OUTPUT_DIR) or remove it; nothing was trained"
    raise UserError(f"{folder} holds a model {what}: {hint}")


def _hash_of_images(data: Mapping[str, PanopticFiles]) -> str:
    digest = hashlib.sha1()
    for split in sorted(data):
        images = read_panoptic_json(data[split].panoptic_json).images.values()
        digest.update("\n".join([f"{split}:", *sorted(str(image["file_name"]) for image in images)]).encode())
    return digest.hexdigest()


def _plain(value: Any) -> str:
    """Returns a value in the form in which YAML stores it; tuples become lists."""
    return json.dumps(value, sort_keys=True, default=str)

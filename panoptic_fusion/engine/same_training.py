"""Whether the training in an output folder is the one that is asked for: `--resume` would go on with any."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from panoptic_fusion.config.check import PARTS, value_of
from panoptic_fusion.config.read import leaves, read_config
from panoptic_fusion.data.coco_json import read_panoptic_json
from panoptic_fusion.data.coco_panoptic import PanopticFiles
from panoptic_fusion.data.label_space import LabelSpace
from panoptic_fusion.errors import UserError
from panoptic_fusion.files import write_json
from panoptic_fusion.modeling.fusion import fill_in_thresholds

ORIGIN = "origin.json"  # beside config.yaml, which has the paths of a data set but not its images
COMPARED = ("MODEL", "INPUT")  # a training may go on with another SOLVER: longer, or with a smaller batch
# Keys that do not change the network or its input once a run has started.
NOT_COMPARED = ("MODEL.DEVICE", "MODEL.TRANSFER", "MODEL.TRANSFER_SYNONYMS", "INPUT.PIXEL_BUDGET")


def check_same_classes(folder: str, categories: list[dict]) -> None:
    """Checks that a training in `folder`, if there is one, has these MODEL.CATEGORIES.

    Raises:
        UserError: it has others.
    """
    before = _trained(folder)
    if before is None:
        return
    classes, now = (LabelSpace.from_categories(c) for c in (before.MODEL.CATEGORIES, categories))
    if not classes.same_classes(now):
        _refuse(folder, "of other classes")


def check_same_data(folder: str, data: Mapping[str, PanopticFiles], val_share: float) -> None:
    """Checks that a training in `folder`, if there is one, is on this data; notes in `folder` which data it is.

    Args:
        folder: an existing OUTPUT_DIR, empty or of an earlier call.
        data: the data set as the user gave it, before a split.
        val_share: what will be set apart where there is no "val".

    Raises:
        UserError: the training has other classes, folders or images, or set another share apart.
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
                _refuse(folder, f"of the data set in {there}, not {here}")
        known = json.loads(path.read_bytes()) if path.is_file() else origin
        for key, what in (("images", "of other images in the same folder"), ("val_share", "of another --val-share")):
            if known[key] != origin[key]:
                _refuse(folder, what)
    write_json(path, origin)


def check_same_network(folder: str, cfg: CfgNode) -> None:
    """Checks that a training in `folder`, if there is one, has the network and the input of a config.

    Args:
        folder: an OUTPUT_DIR.
        cfg: a resolved config.

    Raises:
        UserError: a key below MODEL or INPUT has another value (except `NOT_COMPARED`); the message names the first.
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
    """Checks that a training in `folder`, if there is one, is of the parts that a config names.

    Args:
        folder: an OUTPUT_DIR.
        cfg: a resolved config.

    Raises:
        UserError: the name of a part is another; the message has its key.
    """
    before = _trained(folder)
    for key in PARTS if before is not None else ():
        if value_of(before, key) != value_of(cfg, key):
            _refuse(folder, f"with {key} {value_of(before, key)!r}, not {value_of(cfg, key)!r}")


def _trained(folder: str) -> CfgNode | None:
    """The config of the training in a folder; None if there is none that a checkpoint could go on with."""
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
    """As a yaml keeps it, where a tuple is a list."""
    return json.dumps(value, sort_keys=True, default=str)

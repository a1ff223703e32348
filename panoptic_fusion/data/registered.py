"""Checks registered datasets before they are used with a model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.data import DatasetCatalog

from ..errors import ConfigError
from .coco_panoptic import get_label_space
from .image_header import MAX_PIXELS
from .label_space import LabelSpace


def check_registered(name: str, entries: Sequence[Mapping[str, Any]]) -> None:
    """Checks that a dataset of a config is registered.

    The config of a trained model registers only datasets whose JSON exists.

    Args:
        name: name of the dataset.
        entries: DATASETS.REGISTER of the config.

    Raises:
        FileNotFoundError: if an entry has the name, but its JSON does not exist.
        ConfigError: if no dataset has the name; the message has the names of the entries.
    """
    if name in DatasetCatalog.list():
        return
    paths = {entry.get("name"): entry.get("panoptic_json") for entry in entries}
    if name in paths:
        raise FileNotFoundError(
            f"dataset {name!r}: {paths[name]} (DATASETS.REGISTER) does not exist; a relative path starts at the folder "
            "in which the command runs"
        )
    known = f"; the config registers {', '.join(map(str, paths))}" if paths else ""
    raise ConfigError(
        f"dataset {name!r} is not registered: name it in DATASETS.REGISTER or call register_panoptic{known}"
    )


def check_data_set(name: str, model: LabelSpace, max_pixels: int = MAX_PIXELS) -> None:
    """Checks that a registered dataset has the classes of a model and all its files, and no image that is too large.

    Raises:
        ConfigError: if the classes differ, a file is missing, the dataset has no image, or an image has more than
            `max_pixels` pixels (INPUT.MAX_PIXELS) according to the JSON.
    """
    data = get_label_space(name)
    if (data.thing_classes, data.stuff_classes) != (model.thing_classes, model.stuff_classes):
        raise ConfigError(
            f"the classes of dataset {name!r} differ from the model's (MODEL.CATEGORIES, or "
            f"DATASETS.TRAIN[0]): the dataset has {data.num_things} things and {data.num_stuff} stuff "
            f"classes, the model {model.num_things} and {model.num_stuff}, or names or order differ"
        )
    dicts = DatasetCatalog.get(name)
    if not dicts:
        raise ConfigError(f"dataset {name!r} has no image")
    largest = max(dicts, key=lambda record: record["width"] * record["height"])
    if largest["width"] * largest["height"] > max_pixels:
        raise ConfigError(
            f"dataset {name!r}: {largest['file_name']} has {largest['width']}x{largest['height']} pixels, more than "
            f"INPUT.MAX_PIXELS ({max_pixels}): make it smaller, or raise the limit if there is enough memory"
        )
    _check_files(name, dicts)


def _check_files(name: str, dicts: list[dict]) -> None:
    """Checks that all images and PNGs exist; lists each folder once and opens no file."""
    listed = {}
    for key in ("file_name", "pan_seg_file_name"):
        missing = []
        for dataset_dict in dicts:
            folder, base = os.path.split(dataset_dict[key])
            if folder not in listed:
                listed[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
            if base not in listed[folder]:
                missing.append(dataset_dict[key])
        if missing:
            raise ConfigError(
                f"dataset {name!r}: {len(missing)} of {len(dicts)} files are missing, the first is {missing[0]}; "
                "`panoptic-fusion check` lists all problems"
            )

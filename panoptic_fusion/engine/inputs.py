"""Records the datasets and initial weights of a run, so that a change is noticed when its results are used again."""

import hashlib
import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from panoptic_fusion.config.check import get_config_value
from panoptic_fusion.errors import UserError
from panoptic_fusion.files import file_state, write_json
from panoptic_fusion.networks.downloads import KEYS

logger = logging.getLogger(__name__)

INPUTS = "inputs.json"


def write_inputs(cfg: CfgNode) -> None:
    """Writes OUTPUT_DIR/inputs.json: {description of an input: hash of its state}, for `changed_inputs`."""
    names = dict.fromkeys([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST])
    write_json(Path(cfg.OUTPUT_DIR, INPUTS), input_states(cfg, names), indent=1)


def changed_inputs(cfg: CfgNode, folder: str | os.PathLike, names: Iterable[str]) -> list[str]:
    """Returns which inputs of the run in a folder have changed since it was started.

    Args:
        cfg: resolved config of the run.
        folder: OUTPUT_DIR of the run. Without inputs.json, nothing has changed.
        names: datasets to compare.
    """
    path = Path(folder, INPUTS)
    if not path.is_file():
        return []
    before = json.loads(path.read_bytes())
    return [name for name, state in input_states(cfg, names).items() if before.get(name, state) != state]


def warn_of_changed_inputs(cfg: CfgNode) -> None:
    """Logs a warning if the training data or the initial weights of the run in OUTPUT_DIR have changed."""
    changed = changed_inputs(cfg, cfg.OUTPUT_DIR, cfg.DATASETS.TRAIN)
    if changed:
        text = "%s changed since the run in %s started, which continues from its checkpoint: use another OUTPUT_DIR to "
        logger.warning(text + "train from the start", ", ".join(changed), cfg.OUTPUT_DIR)


def input_states(cfg: CfgNode, names: Iterable[str]) -> dict[str, str]:
    """Returns {description: state} of datasets and of the weights that a resolved config names; a state is any text."""
    paths = {key: get_config_value(cfg, key) for key in KEYS}
    return dataset_states(names) | {f"{key} {path}": _state_of_weights(path) for key, path in paths.items() if path}


def dataset_states(names: Iterable[str]) -> dict[str, str]:
    """Returns the part of `input_states` that is about datasets."""
    return {f"dataset {name!r}": _state_of_dataset(name) for name in names}


def _state_of_weights(path: str) -> str:
    """Returns the size and time of a file, or of the config and checkpoints in a folder; "None" for an address."""
    if not os.path.isdir(path):
        return str(file_state(path))
    files = [file for file in sorted(Path(path).iterdir()) if file.suffix in (".pth", ".yaml")]
    return str([(file.name, file_state(file)) for file in files])


def _state_of_dataset(name: str) -> str:
    """Returns a hash of the annotations of a dataset, and of the sizes and modification times of its files."""
    digest = hashlib.sha1()
    try:
        records = DatasetCatalog.get(name)
    except (UserError, KeyError):
        return "(missing)"
    for record in records:
        files = {key: record[key] for key in ("file_name", "pan_seg_file_name") if key in record}
        states = {key: (os.path.basename(path), file_state(path)) for key, path in files.items()}
        digest.update(repr({**record, **states}).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()

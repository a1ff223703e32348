"""Reads weight files and recognizes the layout of their rows, which is never guessed from shapes.

Checkpoints of this project store their layout, see `mark`. For other files it is determined in this order:
1. a `config.yaml` with MODEL.CATEGORIES next to the file: a checkpoint of this project from before layouts were stored;
2. MODEL.WEIGHTS_LAYOUT, if it is set;
3. a `.pkl` with `__author__`: detectron2's layout, as in the files of its model zoo.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from panoptic_fusion.data.label_space import ONTOLOGIES, LabelSpace
from panoptic_fusion.errors import ConfigError, UserError

from .class_rows import DETECTRON2, PANOPTIC_FUSION, ClassRows, fits
from .model_zoo import classes_of_zoo_file
from .weights_file import read_weights_file

MARK, FORMAT = "panoptic_fusion", 1  # key in a checkpoint, and the version of the content under it


@dataclass
class LoadedWeights:
    """Content of a weight file.

    Attributes:
        path: path of the file.
        tensors: tensors under the names of the file.
        rows: classes of the file and order of its rows; None if its layout is not known.
        rest: other content of a checkpoint: iteration, optimizer, detectron2's `__author__`, `matching_heuristics`, ...
    """

    path: Path
    tensors: dict[str, Tensor]
    rows: ClassRows | None
    rest: dict[str, Any] = field(default_factory=dict)


def load_weights(path: str, *, layout: str = "", expected: LabelSpace | None = None) -> LoadedWeights:
    """Reads a weight file and recognizes its layout.

    Args:
        path: local file in any format of `read_weights_file`.
        layout: MODEL.WEIGHTS_LAYOUT: "panoptic_fusion", "detectron2" or "".
        expected: classes of the model that the file is for. A file in detectron2's layout does not name its classes. A
            file of the model zoo has the classes of the zoo model. Any other file has the expected classes if all of
            its heads have the matching size; otherwise its classes are unknown.

    Raises:
        FileNotFoundError: the file does not exist.
        UserError: the file cannot be read, contains no named tensors, or was saved by a later version of this project.
        ConfigError: `layout` contradicts the known layout of the file.
    """
    path = Path(path)
    checkpoint = as_checkpoint(read_weights_file(path), path)
    tensors = tensors_of(checkpoint.pop("model"), path)
    rows = _marked(checkpoint.pop(MARK, None), path) or _trained_before(path, layout)
    if rows is None and not layout and path.suffix == ".pkl" and checkpoint.get("__author__") not in (None, "Caffe2"):
        layout = DETECTRON2
    if rows is None and layout == PANOPTIC_FUSION:
        rows = ClassRows(PANOPTIC_FUSION, None)
    if rows is None and layout == DETECTRON2:
        rows = _rows_of_detectron2(path, tensors, expected)
    return LoadedWeights(path, tensors, rows, checkpoint)


def mark(rows: ClassRows) -> dict[str, Any]:
    """Returns the content of a checkpoint under the key `MARK`: plain values that describe its rows."""
    categories = rows.label_space.to_categories() if rows.label_space else []
    return {"format": FORMAT, "categories": categories, "ontology": rows.ontology}


def as_checkpoint(content: Any, path: Path) -> dict[str, Any]:
    """Converts the content of a file to the format of detectron2's `DetectionCheckpointer`, with tensors as `model`.

    Caffe2 blobs (a `.pkl` without `__author__`) and pycls models (`.pyth`) get an `__author__` and
    `matching_heuristics`.

    Raises:
        UserError: the content has no named tensors.
    """
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a checkpoint: it holds a {type(content).__name__}, no tensors by name")
    if path.suffix == ".pkl" and not {"model", "__author__"} <= set(content):
        blobs = content.get("blobs", content)
        if not isinstance(blobs, dict):
            raise UserError(f"{path} is not a checkpoint: its blobs are a {type(blobs).__name__}, no tensors by name")
        blobs = {name: value for name, value in blobs.items() if not str(name).endswith("_momentum")}
        return {"model": blobs, "__author__": "Caffe2", "matching_heuristics": True}
    if path.suffix == ".pyth":
        if not isinstance(content.get("model_state"), dict):
            raise UserError(f"{path} is not a checkpoint of pycls: it has no model_state")
        state = {k: v for k, v in content["model_state"].items() if not str(k).endswith("num_batches_tracked")}
        return {"model": state, "__author__": "pycls", "matching_heuristics": True}
    return dict(content) if "model" in content else {"model": content}


def tensors_of(model: Any, path: Path) -> dict[str, Tensor]:
    """Converts named arrays and tensors to tensors, without the name prefix of DistributedDataParallel.

    Raises:
        UserError: a value is neither an array nor a tensor.
    """
    if not isinstance(model, Mapping):
        raise UserError(f"{path} does not hold the tensors of a model: it holds a {type(model).__name__}")
    tensors = OrderedDict()
    for name, value in model.items():
        if isinstance(value, np.ndarray):
            value = torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("=")))
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise UserError(f"{path} does not hold the tensors of a model: {name} is a {type(value).__name__}")
        tensors[name] = value
    if all(name.startswith("module.") for name in tensors):
        return OrderedDict((name.removeprefix("module."), value) for name, value in tensors.items())
    if isinstance(metadata := getattr(model, "_metadata", None), dict):
        tensors._metadata = metadata  # versions of the modules, for load_state_dict
    return tensors


def _marked(content: Any, path: Path) -> ClassRows | None:
    if content is None:
        return None
    version = content.get("format") if isinstance(content, dict) else None
    if type(version) is not int or version > FORMAT:
        raise UserError(
            f"{path} was saved by a later version of panoptic_fusion (format {version!r}; this one knows {FORMAT}): "
            "update panoptic_fusion"
        )
    return _rows_of_ours(content.get("categories"), content.get("ontology"), str(path))


def _trained_before(path: Path, layout: str) -> ClassRows | None:
    """Returns the classes in the `config.yaml` next to a file, if it is a config of this project."""
    config = path.with_name("config.yaml")
    try:
        model = yaml.safe_load(config.read_text(encoding="utf-8"))["MODEL"]
        categories, ontology = model["CATEGORIES"], model["SEM_SEG_HEAD"]["ONTOLOGY"]
    except (OSError, ValueError, yaml.YAMLError, TypeError, KeyError):  # no config, or the config of another program
        return None
    if not categories:
        return None
    if layout == DETECTRON2:
        raise ConfigError(
            f"MODEL.WEIGHTS_LAYOUT is {layout!r}, but {path} is a checkpoint of panoptic_fusion: {config} has its "
            "classes. Set the key to ''"
        )
    return _rows_of_ours(categories, ontology, str(config))


def _rows_of_ours(categories: Any, ontology: Any, where: str) -> ClassRows:
    if not categories:
        return ClassRows(PANOPTIC_FUSION, None)
    try:
        label_space = LabelSpace.from_categories(categories)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    if ontology not in ONTOLOGIES:
        raise UserError(f"{where}: unknown ontology {ontology!r}")
    return ClassRows(PANOPTIC_FUSION, label_space, ontology)


def _rows_of_detectron2(path: Path, tensors: Mapping[str, Tensor], expected: LabelSpace | None) -> ClassRows:
    label_space = classes_of_zoo_file(path)
    if label_space is None and expected is not None and fits(tensors, ClassRows(DETECTRON2, expected)):
        label_space = expected
    return ClassRows(DETECTRON2, label_space)

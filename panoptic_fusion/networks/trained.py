"""Loading of trained models: the config of an OUTPUT_DIR, a predictor with its weights, and images to run it on."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.data import transforms as T
from detectron2.data.catalog import Metadata
from detectron2.engine import DefaultPredictor
from detectron2.modeling import META_ARCH_REGISTRY

from panoptic_fusion.checkpoint import AtomicCheckpointer, check_finite_weights, named_checkpoint
from panoptic_fusion.checkpoint.checkpointer import BEST
from panoptic_fusion.config import merge_opts, read_config, resolve_config, with_values
from panoptic_fusion.data.label_space import LabelSpace
from panoptic_fusion.data.registered import check_data_set, check_registered
from panoptic_fusion.errors import ConfigError, UserError
from panoptic_fusion.modeling.backbone.timm_config import clear_pretrained_weights

from .downloads import check_downloads


def load_trained(model_dir: str | os.PathLike, opts: Sequence[str] = (), *, allow_download: bool = False) -> CfgNode:
    """Returns the config of a trained model from its OUTPUT_DIR alone; the dataset is not needed.

    Args:
        model_dir: OUTPUT_DIR with `config.yaml` and a checkpoint.
        opts: additional "KEY VALUE" pairs.
        allow_download: whether to download weights from any address that the config names, see `check_downloads`.

    Returns:
        A resolved config, ready for `DefaultPredictor`, whose MODEL.WEIGHTS is a checkpoint of `model_dir`. It is
        `model_best.pth` if the run kept its best checkpoint (TEST.BEST_METRIC, as in fine-tune), otherwise the last
        one. An evaluated `IndependentPanoptic` loads the checkpoints of its two networks; its MODEL.WEIGHTS remains the
        checkpoint of its fusion, or empty. MODEL.DEVICE is the device of the training run, or "cpu" if the machine has
        no GPU.

    Raises:
        FileNotFoundError: if the folder has no config.yaml or no checkpoint.
        UserError: if the checkpoint cannot be read, or contains NaN or infinity.
    """
    model_dir = Path(model_dir)
    if not (model_dir / "config.yaml").is_file():
        raise FileNotFoundError(f"{model_dir} has no config.yaml: pass the OUTPUT_DIR of a training run")
    cfg = read_config(model_dir / "config.yaml")
    weights = named_checkpoint(model_dir) or model_dir / "model_final.pth"
    best = model_dir / f"{BEST}.pth"
    if cfg.TEST.BEST_METRIC and best.is_file():
        weights = best
    clear_pretrained_weights(cfg)
    if not loads_submodel_weights(cfg):
        cfg.MODEL.WEIGHTS = str(weights)
    cfg.OUTPUT_DIR = str(model_dir)
    check_downloads(cfg, allow_download=allow_download, from_folder=True)
    merge_opts(cfg, opts)
    check_downloads(cfg, allow_download=allow_download)
    if not loads_submodel_weights(cfg) and "://" not in cfg.MODEL.WEIGHTS and not os.path.isfile(cfg.MODEL.WEIGHTS):
        raise FileNotFoundError(f"{cfg.MODEL.WEIGHTS} does not exist: {model_dir} holds no finished checkpoint")
    if cfg.MODEL.WEIGHTS.endswith(".pth"):
        check_finite_weights(cfg.MODEL.WEIGHTS)
    return resolve_config(cfg)


def loads_submodel_weights(cfg: CfgNode) -> bool:
    """Returns whether the network loads its weights from MODEL.INDEPENDENT.*, so that MODEL.WEIGHTS may be empty."""
    name = cfg.MODEL.META_ARCHITECTURE
    return name in META_ARCH_REGISTRY and getattr(META_ARCH_REGISTRY.get(name), "loads_submodel_weights", False)


def load_config(
    model_dir: str | None, config_file: str | None, opts: list[str], *, allow_download: bool = False
) -> CfgNode:
    """Returns the resolved config that --model or --config-file names, changed by "KEY VALUE" pairs.

    Args:
        model_dir: OUTPUT_DIR of a training run, or None.
        config_file: config file to use if `model_dir` is None.
        opts: KEY, VALUE, KEY, VALUE, ...
        allow_download: whether to download weights from any address that the config names, see `check_downloads`.

    Raises:
        UserError: if the config file has no weights, or they may not be downloaded.
    """
    if model_dir:
        read_config(opts=opts)  # reports an unknown key before the model's own files are read
        return load_trained(model_dir, opts, allow_download=allow_download)
    cfg = read_config(config_file, opts)
    check_downloads(cfg, allow_download=allow_download)
    cfg = resolve_config(cfg)
    if not cfg.MODEL.WEIGHTS and not loads_submodel_weights(cfg):
        raise UserError(f"{config_file} names no weights: add MODEL.WEIGHTS FILE, or pass --model")
    return cfg


def build_predictor(cfg: CfgNode) -> DefaultPredictor:
    """Returns detectron2's predictor with the weights of `cfg`, which must be complete.

    The network is `predictor.model`. `predictor.metadata` has the classes, colors and category ids of the model
    (MODEL.CATEGORIES), even if the training dataset has changed or is missing.

    Raises:
        FileNotFoundError, UserError: if the checkpoint is missing, cannot be read or does not fit.
    """
    with torch.random.fork_rng(()):  # the random weights are replaced
        predictor = DefaultPredictor(with_values(cfg, {"MODEL.WEIGHTS": ""}))
    predictor.metadata = LabelSpace.from_categories(cfg.MODEL.CATEGORIES).apply_to_metadata(Metadata())
    if cfg.TEST.AUG.ENABLED:
        predictor.aug = T.ResizeShortestEdge(0)  # none: the network resizes the image itself, once per view
    AtomicCheckpointer.from_config(cfg, predictor.model, require_complete=True).load(cfg.MODEL.WEIGHTS)
    return predictor


def check_is_panoptic(cfg: CfgNode, source: str | os.PathLike) -> None:
    """Checks that a resolved config's network returns a panoptic map; `source` is where the config comes from.

    Raises:
        ConfigError: it does not.
    """
    if "panoptic_seg" not in cfg.MODEL.PANOPTIC_FUSION.OUTPUTS:
        raise ConfigError(
            f"{source}: MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE}, which has no panoptic output: choose "
            "a panoptic model"
        )


def load_eval_dicts(cfg: CfgNode, dataset: str) -> list[dict]:
    """Returns the dicts of a dataset for use with a trained model's config.

    Raises:
        FileNotFoundError: if the config registers the dataset, but its JSON does not exist.
        ConfigError: if the dataset does not exist (the message names the datasets of the config), its classes differ
            from the model's, it has no image, or some of its files are missing.
    """
    check_registered(dataset, cfg.DATASETS.REGISTER)
    check_data_set(dataset, LabelSpace.from_categories(cfg.MODEL.CATEGORIES), cfg.INPUT.MAX_PIXELS)
    return DatasetCatalog.get(dataset)


def evenly_spread(dicts: list[dict], number: int) -> list[dict]:
    """Returns `number` dicts of a dataset, evenly spaced from the first to the last, or all if it has fewer."""
    return [dicts[i] for i in np.linspace(0, len(dicts) - 1, min(number, len(dicts))).round().astype(int)]

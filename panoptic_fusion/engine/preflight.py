"""Checks to run before a long job, so that mistakes surface within seconds."""

import os

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer

from panoptic_fusion.checkpoint import (
    AtomicCheckpointer,
    check_finite_weights,
    check_weights_file,
    named_checkpoint,
)
from panoptic_fusion.config import with_values
from panoptic_fusion.data.label_space import LabelSpace
from panoptic_fusion.data.mapper import build_augmentations
from panoptic_fusion.data.registered import check_data_set, check_registered
from panoptic_fusion.errors import ConfigError, UserError, one_line
from panoptic_fusion.evaluation import check_evaluators
from panoptic_fusion.files import check_writable
from panoptic_fusion.modeling.backbone.timm_config import NO_PRETRAINING, check_trainable
from panoptic_fusion.networks.freeze import freeze_parts
from panoptic_fusion.networks.trained import loads_submodel_weights

from .initial_weights import name_match_of, training_checkpointer
from .mixed_precision import DTYPES
from .run_compatibility import check_same_classes, check_same_parts
from .schedule import build_scheduler


def check_before_start(cfg: CfgNode, *, resume: bool, eval_only: bool) -> None:
    """Checks the datasets, weights and output folder of a resolved config.

    Args:
        cfg: resolved config.
        resume: whether the job uses the last checkpoint in OUTPUT_DIR.
        eval_only: whether the job evaluates without training.

    Raises:
        UserError, FileNotFoundError: if a check fails. The message names the file or config key and says what to do.
    """
    check_writable(cfg.OUTPUT_DIR)
    if not eval_only and not resume:
        _check_no_model(cfg.OUTPUT_DIR)
    if cfg.DATASETS.TEST:
        check_evaluators(cfg)
    names = list(cfg.DATASETS.TEST) + ([] if eval_only else list(cfg.DATASETS.TRAIN))
    if not names:
        raise ConfigError("DATASETS.TEST is empty" if eval_only else "DATASETS.TRAIN and DATASETS.TEST are empty")
    model = LabelSpace.from_categories(cfg.MODEL.CATEGORIES)
    for name in names:
        check_registered(name, cfg.DATASETS.REGISTER)
        check_data_set(name, model, cfg.INPUT.MAX_PIXELS)
    if cfg.SOLVER.AMP.ENABLED and not eval_only:
        _check_mixed_precision(cfg.SOLVER.AMP.DTYPE, cfg.MODEL.DEVICE)
    if has_checkpoint_to_resume(cfg, resume):
        _check_last_checkpoint(cfg.OUTPUT_DIR)
        check_same_classes(cfg.OUTPUT_DIR, cfg.MODEL.CATEGORIES)  # as many other classes would fit the checkpoint
        if not eval_only:
            check_same_parts(cfg.OUTPUT_DIR, cfg)
        build_on_trial(with_values(cfg, NO_PRETRAINING), eval_only=eval_only)
        return
    if not eval_only:
        check_trainable(cfg)
        name_match_of(cfg)
    weights = cfg.MODEL.WEIGHTS
    if eval_only and not weights and not loads_submodel_weights(cfg):
        raise ConfigError("MODEL.WEIGHTS is empty: name the checkpoint to evaluate (or use --resume)")
    check_weights_file(weights)
    if loads_submodel_weights(cfg) and not weights.endswith(".pth"):
        return
    model = build_on_trial(cfg, eval_only=eval_only)
    if weights and "://" not in weights:  # URLs are downloaded first
        if eval_only:
            AtomicCheckpointer.from_config(cfg, model, require_complete=True).load(weights)
        else:
            training_checkpointer(cfg, model).load(weights)


def build_on_trial(cfg: CfgNode, *, eval_only: bool) -> torch.nn.Module:
    """Builds the network on the CPU, and for training the optimizer, its schedule and the augmentations.

    Incompatible parts are therefore found before anything is written, whatever error detectron2, timm or a plugin
    raises for them.

    Returns:
        The network.

    Raises:
        ConfigError: if something cannot be built.
    """
    what = "network"
    try:
        model = build_model(with_values(cfg, {"MODEL.DEVICE": "cpu"}))
        freeze_parts(model, cfg.MODEL.FREEZE)
        if not eval_only:
            what = "optimizer"
            optimizer = build_optimizer(cfg, model)
            what = "learning rate schedule"
            build_scheduler(cfg, optimizer)
            what = "augmentation"
            build_augmentations(cfg, is_train=True)
        return model
    except (UserError, FileNotFoundError):
        raise
    except Exception as error:  # the parts raise many types of errors for invalid arguments
        raise ConfigError(
            f"the {what} of this config cannot be built ({type(error).__name__}: {one_line(error)[:300]}): check the "
            "keys that differ from a config that works"
        ) from error


def has_checkpoint_to_resume(cfg: CfgNode, resume: bool) -> bool:
    """Returns whether a job with or without `--resume` loads the last checkpoint in OUTPUT_DIR, not MODEL.WEIGHTS."""
    return resume and named_checkpoint(cfg.OUTPUT_DIR) is not None


def check_processes(cfg: CfgNode, num_gpus: int, num_machines: int, *, eval_only: bool = False) -> None:
    """Checks --num-gpus and --num-machines against the machine and, for training, the batch size.

    Raises:
        UserError: if the machine has fewer GPUs, or the batch cannot be divided equally.
    """
    if min(num_gpus, num_machines) < 1:
        raise UserError(f"--num-gpus {num_gpus}, --num-machines {num_machines}: both must be at least 1")
    if torch.cuda.is_available() and num_gpus > torch.cuda.device_count():
        raise UserError(f"--num-gpus {num_gpus}: this machine has {torch.cuda.device_count()}")
    processes = num_gpus * num_machines
    if not eval_only and cfg.SOLVER.REFERENCE_WORLD_SIZE == 0 and cfg.SOLVER.IMS_PER_BATCH % processes:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH is {cfg.SOLVER.IMS_PER_BATCH}: {processes} processes cannot share it equally"
        )


def _check_last_checkpoint(folder: str) -> None:
    """Checks that the checkpoint to resume from exists."""
    path = named_checkpoint(folder)
    if not path.is_file():
        raise UserError(
            f"--resume: {folder}/last_checkpoint names {path.name}, which does not exist: write the name of a "
            "checkpoint of that folder into last_checkpoint, or remove it to start from scratch"
        )
    check_finite_weights(path)


def _check_no_model(folder: str) -> None:
    """Checks that a new run does not overwrite an existing one."""
    for name in ("last_checkpoint", "model_final.pth"):
        if os.path.isfile(os.path.join(folder, name)):
            raise UserError(
                f"OUTPUT_DIR {folder} already holds a training run ({name}): add --resume to resume it, or choose "
                "another OUTPUT_DIR (or remove the folder)"
            )


def _check_mixed_precision(dtype: str, device: str) -> None:
    if dtype not in DTYPES:
        raise ConfigError(f"SOLVER.AMP.DTYPE is {dtype!r}: use one of {', '.join(DTYPES)}")
    if dtype == "float16" and not device.startswith("cuda"):
        raise ConfigError(
            f"SOLVER.AMP.DTYPE 'float16' needs a GPU; MODEL.DEVICE is {device!r}: set it to 'bfloat16', or "
            "SOLVER.AMP.ENABLED to False"
        )

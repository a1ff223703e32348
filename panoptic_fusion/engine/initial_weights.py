"""Loads MODEL.WEIGHTS at the start of a training run."""

import torch
from detectron2.config import CfgNode

from panoptic_fusion.checkpoint import AtomicCheckpointer
from panoptic_fusion.checkpoint.transfer import NameMatch, read_synonyms
from panoptic_fusion.config.defaults import find_config


def training_checkpointer(
    cfg: CfgNode, model: torch.nn.Module, save_dir: str = "", **checkpointables
) -> AtomicCheckpointer:
    """Returns the checkpointer of a training run, which loads MODEL.WEIGHTS according to MODEL.TRANSFER.

    Args:
        cfg: resolved config.
        model: its network.
        save_dir: folder of the checkpoints.
        checkpointables: other objects to save and resume, see detectron2's `DetectionCheckpointer`.

    Raises:
        ConfigError, FileNotFoundError: see `name_match_of`.
    """
    return AtomicCheckpointer.from_config(
        cfg,
        model,
        save_dir,
        allow_shape_mismatch=cfg.MODEL.ALLOW_SHAPE_MISMATCH,
        name_match=name_match_of(cfg),
        **checkpointables,
    )


def name_match_of(cfg: CfgNode) -> NameMatch | None:
    """Returns the match that MODEL.TRANSFER and MODEL.TRANSFER_SYNONYMS specify; None for "none".

    Raises:
        ConfigError, FileNotFoundError: if the file of synonyms does not exist or is invalid. The message names the key.
    """
    if cfg.MODEL.TRANSFER == "none":
        return None
    if not cfg.MODEL.TRANSFER_SYNONYMS:
        return NameMatch()
    try:
        path = find_config(cfg.MODEL.TRANSFER_SYNONYMS)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"MODEL.TRANSFER_SYNONYMS: {error}") from error
    return NameMatch(read_synonyms(path))

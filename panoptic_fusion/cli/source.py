"""The network of a command: a training run, a config with weights, or a model of detectron2's zoo."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from panoptic_fusion.errors import UserError

from .arguments import check_model

if TYPE_CHECKING:
    from detectron2.config import CfgNode


def check_source(
    model: str | None, config_file: str | None, zoo: str | None, weights: str | os.PathLike | None, *others: str
) -> None:
    """Checks that exactly one source of the network is specified; see `demo` and `check_model` for the arguments.

    Raises:
        UserError: no source is specified, or the arguments exclude each other.
    """
    if zoo and (model or config_file):
        raise UserError("--zoo is a model of its own: leave out --model and --config-file")
    if weights and not zoo:
        raise UserError("--weights needs --zoo NAME; with --config-file, set the config key MODEL.WEIGHTS")
    if not zoo:
        check_model(model, config_file, "--zoo NAME", *others)


def load_source_config(
    model: str | None,
    config_file: str | None,
    zoo: str | None,
    weights: str | os.PathLike | None,
    opts: Sequence[str],
    *,
    allow_download: bool,
) -> CfgNode:
    """Loads the config of a network that `check_source` accepts; see `demo` for the arguments.

    Raises:
        UserError, FileNotFoundError: it cannot be loaded; the message names the problem.
    """
    from panoptic_fusion.networks import load_zoo
    from panoptic_fusion.networks.trained import load_config

    if zoo:
        return load_zoo(zoo, opts, weights)
    return load_config(model, config_file, list(opts), allow_download=allow_download)

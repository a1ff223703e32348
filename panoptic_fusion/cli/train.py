"""Trains a model from a config, evaluates it, and writes config.yaml, checkpoints and results to OUTPUT_DIR.

    panoptic-fusion train --config-file toy/panoptic_fpn_r18.yaml [--num-gpus 8] [--resume] [KEY VALUE ...]

Without a GPU, --num-gpus 2 trains with two CPU processes (gloo). --eval-only is equivalent to `panoptic-fusion evaluate
--config-file`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from panoptic_fusion.errors import UserError

from .arguments import add_allow_download, add_launcher, add_opts, launcher_of

HELP = "train a model and evaluate it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the config, the training options and the arguments of detectron2's launcher."""
    parser.add_argument("--config-file", default="", help="a yaml file, or the name of one of the project's configs")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint in OUTPUT_DIR, if any")
    parser.add_argument("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS, train nothing")
    add_allow_download(parser)
    add_launcher(parser)
    add_opts(parser)


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    if not args.config_file:
        raise UserError("--config-file is missing: name a config, such as toy/panoptic_fpn_r18.yaml")
    train(args.config_file, args.opts, resume=args.resume, eval_only=args.eval_only,
          allow_download=args.allow_download, **launcher_of(args))  # fmt: skip


def train(
    config_file: str,
    opts: Sequence[str] = (),
    *,
    resume: bool = False,
    eval_only: bool = False,
    allow_download: bool = False,
    num_gpus: int = 1,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
) -> Path:
    """Trains a model; checks as much as possible before the processes start.

    Args:
        config_file: path to a YAML file, or the name of one of the project's configs, such as
            "toy/panoptic_fpn_r18.yaml".
        opts: sequence KEY, VALUE, KEY, VALUE, ... that changes the config.
        resume: whether to continue from the last checkpoint in OUTPUT_DIR, if there is one.
        eval_only: whether to only evaluate MODEL.WEIGHTS (with `resume`, the last checkpoint in OUTPUT_DIR).
        allow_download: whether to download weights from any address in the config, see `check_downloads`.
        num_gpus: number of processes on this machine; without a GPU they run on the CPU.
        num_machines, machine_rank, dist_url: see detectron2's `launch`.

    Returns:
        OUTPUT_DIR, with config.yaml, the checkpoints, results.json and results.md.

    Raises:
        UserError, FileNotFoundError: the message names the file or the config key and suggests a fix.

    """
    from panoptic_fusion.config import default_output_dir, read_config, resolve_config
    from panoptic_fusion.engine.launch import launch_job
    from panoptic_fusion.modeling.backbone.timm_config import clear_pretrained_weights
    from panoptic_fusion.networks.downloads import check_downloads

    cfg = read_config(config_file, opts)
    cfg.OUTPUT_DIR = cfg.OUTPUT_DIR or default_output_dir(config_file)
    if eval_only:
        clear_pretrained_weights(cfg)
    check_downloads(cfg, allow_download=allow_download)
    cfg = resolve_config(cfg)
    launch_job(cfg, resume=resume, eval_only=eval_only, num_gpus=num_gpus, num_machines=num_machines,
               machine_rank=machine_rank, dist_url=dist_url)  # fmt: skip
    return Path(cfg.OUTPUT_DIR)

"""Trains a model from a config, evaluates it, and writes config.yaml, checkpoints and results into OUTPUT_DIR.

    panoptic-fusion train --config-file toy/panoptic_fpn_r18.yaml [--num-gpus 8] [--resume] [KEY VALUE ...]

Without a GPU, --num-gpus 2 trains with two CPU processes (gloo). --eval-only is what `panoptic-fusion evaluate
--config-file` does.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from panoptic_fusion.errors import UserError

from .arguments import add_launcher, add_opts, launcher_of

HELP = "train a model and evaluate it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of detectron2's launcher."""
    parser.add_argument("--config-file", default="", help="a yaml file, or the name of one of the project's configs")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint in OUTPUT_DIR, if any")
    parser.add_argument("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS, train nothing")
    add_launcher(parser)
    add_opts(parser)


def run(args: argparse.Namespace) -> None:
    """Runs the command line."""
    if not args.config_file:
        raise UserError("--config-file is missing: name a config, such as toy/panoptic_fpn_r18.yaml")
    train(args.config_file, args.opts, resume=args.resume, eval_only=args.eval_only, **launcher_of(args))


def train(
    config_file: str,
    opts: Sequence[str] = (),
    *,
    resume: bool = False,
    eval_only: bool = False,
    num_gpus: int = 1,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
) -> Path:
    """Trains a model. Everything that can be checked at once is checked before the processes start.

    Args:
        config_file: a yaml file, or the name of one of the project's configs, such as "toy/panoptic_fpn_r18.yaml".
        opts: KEY, VALUE, KEY, VALUE, ... that change the config.
        resume: continue from the last checkpoint in OUTPUT_DIR, if it has one.
        eval_only: evaluate MODEL.WEIGHTS (with `resume`: the last checkpoint in OUTPUT_DIR), train nothing.
        num_gpus: processes on this machine; without a GPU they run on the CPU.
        num_machines, machine_rank, dist_url: see detectron2's `launch`.

    Returns:
        OUTPUT_DIR, with config.yaml, the checkpoints, results.json and results.md.

    Raises:
        UserError, FileNotFoundError: the message names the file or the config key and says what to do.
    """
    from panoptic_fusion.config import default_output_dir, read_config, resolve_config
    from panoptic_fusion.engine.launch import launch_job
    from panoptic_fusion.modeling.backbone.timm_config import forget_pretraining

    cfg = read_config(config_file, opts)
    cfg.OUTPUT_DIR = cfg.OUTPUT_DIR or default_output_dir(config_file)
    if eval_only:
        forget_pretraining(cfg)
    cfg = resolve_config(cfg)
    launch_job(cfg, resume=resume, eval_only=eval_only, num_gpus=num_gpus, num_machines=num_machines,
               machine_rank=machine_rank, dist_url=dist_url)  # fmt: skip
    return Path(cfg.OUTPUT_DIR)

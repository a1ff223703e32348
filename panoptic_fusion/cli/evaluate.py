"""Evaluates a trained model on DATASETS.TEST and writes results.json and results.md to OUTPUT_DIR.

    panoptic-fusion evaluate --model output/toy [--num-gpus 8] [KEY VALUE ...]
    panoptic-fusion evaluate --config-file toy/panoptic_fpn_r18.yaml MODEL.WEIGHTS output/toy/model_final.pth

With --model, OUTPUT_DIR defaults to that folder. Add OUTPUT_DIR FOLDER to keep the results of its training run.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .arguments import add_launcher, add_model, add_opts, check_model, launcher_of

HELP = "evaluate a trained model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the model, the arguments of detectron2's launcher and the config options."""
    add_model(parser)
    add_launcher(parser)
    add_opts(parser)


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    evaluate(args.model, args.config_file, args.opts, allow_download=args.allow_download, **launcher_of(args))


def evaluate(
    model: str | None = None,
    config_file: str | None = None,
    opts: Sequence[str] = (),
    *,
    allow_download: bool = False,
    num_gpus: int = 1,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
) -> dict[str, Any]:
    """Evaluates a trained model.

    Args:
        model: OUTPUT_DIR of the training run.
        config_file: config whose MODEL.WEIGHTS (which `opts` may set) is evaluated, instead of `model`.
        opts: sequence KEY, VALUE, KEY, VALUE, ... that changes the config.
        allow_download: whether to download weights from any address in the config, see `check_downloads`.
        num_gpus, num_machines, machine_rank, dist_url: see `panoptic_fusion.cli.train.train`.

    Returns:
        {task: {metric: number in percent, or None}}, as in results.json, or {dataset: {task: ...}} if DATASETS.TEST has
        several datasets.

    Raises:
        UserError, FileNotFoundError: the message names the file or the config key and suggests a fix.
    """
    check_model(model, config_file)

    from panoptic_fusion.config import default_output_dir, read_config, resolve_config
    from panoptic_fusion.engine.launch import launch_job
    from panoptic_fusion.modeling.backbone.timm_config import forget_pretraining
    from panoptic_fusion.networks.downloads import check_downloads
    from panoptic_fusion.networks.trained import config_of

    if config_file and not model:
        cfg = read_config(config_file, opts)
        cfg.OUTPUT_DIR = cfg.OUTPUT_DIR or default_output_dir(config_file)
        forget_pretraining(cfg)
        check_downloads(cfg, allow_download=allow_download)
        cfg = resolve_config(cfg)
    else:
        cfg = config_of(model, config_file, list(opts), allow_download=allow_download)
    launch_job(cfg, resume=False, eval_only=True, num_gpus=num_gpus, num_machines=num_machines,
               machine_rank=machine_rank, dist_url=dist_url)  # fmt: skip
    return json.loads(Path(cfg.OUTPUT_DIR, "results.json").read_text())

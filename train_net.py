#!/usr/bin/env python
"""Trains or evaluates a model: detectron2's launcher on the project's trainer.

    python train_net.py --config-file configs/toy/panoptic_fpn_r18.yaml [--num-gpus 8] [--resume] [KEY VALUE ...]
    python train_net.py --eval-only --config-file output/toy/config.yaml MODEL.WEIGHTS output/toy/model_final.pth

On a machine without a GPU, --num-gpus 2 trains with two CPU processes (gloo).
"""

import argparse
import os
import re

from panoptic_fusion import resolve_config  # first: it silences what detectron2's import makes torch say

# isort: split
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, launch
from detectron2.utils import comm
from torch.multiprocessing import ProcessRaisedException

from panoptic_fusion.checkpoint import AtomicCheckpointer
from panoptic_fusion.config.read import read_config
from panoptic_fusion.engine import PanopticTrainer
from panoptic_fusion.engine.preflight import check_before_start, check_processes, goes_on
from panoptic_fusion.engine.setup import set_up, write_config
from panoptic_fusion.errors import UserError, run_cli
from panoptic_fusion.evaluation.results import write_results
from panoptic_fusion.modeling.backbone.timm_config import forget_pretraining, without_pretraining


def configure(args: argparse.Namespace) -> CfgNode:
    """The resolved config of the command line."""
    if not args.config_file:
        raise UserError("--config-file is missing: name a config, such as configs/toy/panoptic_fpn_r18.yaml")
    cfg = read_config(args.config_file, args.opts)
    if args.eval_only:
        forget_pretraining(cfg)
    return resolve_config(cfg)


def train_or_evaluate(args: argparse.Namespace) -> None:
    """What each process runs."""
    cfg = configure(args)
    set_up(cfg, args)
    if args.eval_only:
        model = PanopticTrainer.build_model(cfg)
        AtomicCheckpointer.from_config(cfg, model, cfg.OUTPUT_DIR, require_complete=True).resume_or_load(
            cfg.MODEL.WEIGHTS, resume=args.resume
        )
        write_config(cfg, eval_only=True)
        results = PanopticTrainer.test(cfg, model)
    else:
        trainer = PanopticTrainer(without_pretraining(cfg) if goes_on(cfg, args.resume) else cfg)
        trainer.resume_or_load(resume=args.resume)
        write_config(cfg, eval_only=False)
        results = trainer.train()
    if comm.is_main_process() and results:
        write_results(results, os.path.join(cfg.OUTPUT_DIR, "results"))


def main() -> None:
    """Checks everything that can be checked at once, then starts the processes."""
    args = default_argument_parser(epilog=__doc__).parse_args()
    cfg = configure(args)
    check_processes(cfg, args.num_gpus, args.num_machines)
    check_before_start(cfg, resume=args.resume, eval_only=args.eval_only)
    try:
        launch(
            train_or_evaluate,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
        )
    except ProcessRaisedException as error:  # its text ends with the child's traceback
        user_error = re.search(r"^panoptic_fusion\.\S+Error: (.*)\Z", str(error).strip(), re.MULTILINE)
        if user_error is None:
            raise
        raise UserError(user_error[1]) from error


if __name__ == "__main__":
    run_cli(main)

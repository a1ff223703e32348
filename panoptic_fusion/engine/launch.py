"""Starts a training or evaluation job: first checks, then one process per GPU."""

import contextlib
import logging
import os
import re
import sys

from detectron2.config import CfgNode
from detectron2.utils import comm
from torch.multiprocessing import ProcessRaisedException

from panoptic_fusion.checkpoint import AtomicCheckpointer, named_checkpoint
from panoptic_fusion.config import resolve_config, with_values
from panoptic_fusion.errors import DISK_ERRORS, DiskError, UserError
from panoptic_fusion.evaluation.results import write_results
from panoptic_fusion.locks import locked_folder
from panoptic_fusion.modeling.backbone.timm_config import NO_PRETRAINING

from .console import run_table
from .inputs import warn_of_changed_inputs, write_inputs
from .preflight import check_before_start, check_processes, has_checkpoint_to_resume
from .process_state import restored_process
from .run_compatibility import log_changed_keys
from .setup import setup_job, write_config
from .spawn import launch
from .trainer import PanopticTrainer


@restored_process()
def launch_job(
    cfg: CfgNode,
    *,
    resume: bool,
    eval_only: bool,
    num_gpus: int = 1,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
) -> None:
    """Checks everything that can be checked in advance, then trains or evaluates until all processes have ended.

    Args:
        cfg: resolved config.
        resume: whether to continue from the last checkpoint in OUTPUT_DIR, if it has one.
        eval_only: whether to evaluate without training.
        num_gpus: number of processes on this machine; without a GPU they run on the CPU (gloo).
        num_machines, machine_rank, dist_url: see detectron2's `launch`.

    Raises:
        UserError, FileNotFoundError: if a check fails, or if any process of the job raised such an error.
    """
    if num_machines > 1 and dist_url == "auto":
        raise UserError(f"--num-machines {num_machines} needs --dist-url: tcp://HOST:PORT of machine 0")
    check_processes(cfg, num_gpus, num_machines, eval_only=eval_only)
    check_before_start(cfg, resume=resume, eval_only=eval_only)
    where = {"num_machines": num_machines, "machine_rank": machine_rank, "dist_url": dist_url}
    if num_machines > 1:
        print(
            f"machine {machine_rank} of {num_machines}: waits at {dist_url} for the others", file=sys.stderr, flush=True
        )
    try:
        launch(train_or_evaluate, num_gpus, **where, args=(cfg, resume, eval_only))
    except ProcessRaisedException as error:  # its text ends with the child's traceback
        user_error = re.search(r"^panoptic_fusion\.\S+Error: (.*)\Z", str(error).strip(), re.MULTILINE)
        if user_error is None:
            full = re.search(r"^OSError: \[Errno (\d+)\] (.*)\Z", str(error).strip(), re.MULTILINE)
            if full is None or int(full[1]) not in DISK_ERRORS:
                raise
            raise DiskError.of(OSError(int(full[1]), full[2])) from error
        raise UserError(user_error[1]) from error


def train_or_evaluate(cfg: CfgNode, resume: bool, eval_only: bool) -> None:
    """Trains or evaluates in one process of the job; for the arguments see `launch_job`."""
    cfg = resolve_config(cfg)  # registers the datasets in a process that was started for this job
    with contextlib.ExitStack() as stack:
        if comm.is_main_process() and not eval_only:
            os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
            stack.enter_context(locked_folder(cfg.OUTPUT_DIR, f"OUTPUT_DIR {cfg.OUTPUT_DIR}"))
        results = _train_or_evaluate(cfg, resume, eval_only)
        if comm.is_main_process() and results:
            write_results(results, os.path.join(cfg.OUTPUT_DIR, "results"))


def _train_or_evaluate(cfg: CfgNode, resume: bool, eval_only: bool) -> dict | None:
    setup_job(cfg, resume=resume, eval_only=eval_only)
    if eval_only:
        model = PanopticTrainer.build_model(cfg)
        checkpointer = AtomicCheckpointer.from_config(cfg, model, cfg.OUTPUT_DIR, require_complete=True)
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
        if comm.is_main_process() and named_checkpoint(cfg.OUTPUT_DIR) is None:  # no training run to describe
            write_inputs(cfg)
        write_config(cfg, eval_only=True)
        return PanopticTrainer.test(cfg, model)
    resumes = has_checkpoint_to_resume(cfg, resume)
    if comm.is_main_process():
        if resumes:
            log_changed_keys(cfg.OUTPUT_DIR, cfg)
            warn_of_changed_inputs(cfg)
        else:
            write_inputs(cfg)
    trainer = PanopticTrainer(with_values(cfg, NO_PRETRAINING) if resumes else cfg)
    trainer.resume_or_load(resume=resume)
    write_config(cfg, eval_only=False)
    parameters = sum(p.numel() for p in trainer.model.parameters())
    table = run_table(cfg, parameters=parameters, processes=comm.get_world_size())
    logging.getLogger(__name__).info("this run:\n%s", table)
    return trainer.train()

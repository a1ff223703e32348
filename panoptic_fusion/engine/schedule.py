"""Learning rate schedules: their construction, largest rate, and adaptation to a shorter or longer run."""

import logging
import math
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver import LRMultiplier, build_lr_scheduler

from panoptic_fusion.config import with_values

LOW = 0.9  # fraction of SOLVER.BASE_LR; a warning is logged if the learning rate never reaches it
MAX_WARMUP_SHARE = 0.1  # fraction of a run; the cosine schedule then reaches 0.97 of SOLVER.BASE_LR


def build_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRMultiplier:
    """Builds the scheduler that SOLVER.LR_SCHEDULER_NAME names.

    It is detectron2's `build_lr_scheduler`, except for WarmupStepWithFixedGammaLR. In detectron2, this scheduler raises
    an IndexError after the last iteration, or if the warm-up is as long as the run. It is built as the equivalent
    multi-step schedule.
    """
    if cfg.SOLVER.LR_SCHEDULER_NAME == "WarmupStepWithFixedGammaLR":
        length, decays = cfg.SOLVER.MAX_ITER, cfg.SOLVER.NUM_DECAYS
        steps = sorted({math.ceil(length * k / (decays + 1)) for k in range(1, decays + 1)} - {length})
        cfg = with_values(cfg, {"SOLVER.LR_SCHEDULER_NAME": "WarmupMultiStepLR", "SOLVER.STEPS": tuple(steps)})
    return build_lr_scheduler(cfg, optimizer)


def largest_rate(cfg: CfgNode) -> float:
    """Returns the largest learning rate of all iterations of SOLVER.MAX_ITER, for any SOLVER.LR_SCHEDULER_NAME."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=cfg.SOLVER.BASE_LR)
    optimizer.step()  # torch warns unless this precedes the scheduler's first step
    scheduler = build_scheduler(cfg, optimizer)
    largest = 0.0
    for iteration in range(cfg.SOLVER.MAX_ITER):
        scheduler.last_epoch = iteration
        largest = max(largest, scheduler.get_lr()[0])
    return largest


def warn_of_low_rate(cfg: CfgNode) -> None:
    """Warns if the schedule never gets close to SOLVER.BASE_LR, for example if the warm-up is as long as the run."""
    largest, solver = largest_rate(cfg), cfg.SOLVER
    if largest < LOW * solver.BASE_LR:
        logging.getLogger(__name__).warning(
            "the learning rate never exceeds %.3g, %.2g of SOLVER.BASE_LR %.3g: SOLVER.WARMUP_ITERS %d and STEPS %s do "
            "not fit SOLVER.MAX_ITER %d. Shorten the warm-up and move the steps",
            largest, largest / solver.BASE_LR, solver.BASE_LR, solver.WARMUP_ITERS, tuple(solver.STEPS),
            solver.MAX_ITER,
        )  # fmt: skip


def scaled_schedule(cfg: CfgNode, iterations: int) -> dict[str, Any]:
    """Returns the settings of a run with a different length and a schedule of the same shape.

    Args:
        cfg: detectron2 config.
        iterations: length of the run, at least 1.

    Returns:
        {KEY: value} for SOLVER.MAX_ITER, STEPS and WARMUP_ITERS. The steps scale with the length. A step that would
        fall into the warm-up or onto another step is left out. The warm-up keeps its length, but takes at most a tenth
        of the run.
    """
    factor = iterations / cfg.SOLVER.MAX_ITER
    steps = sorted({round(step * factor) for step in cfg.SOLVER.STEPS if step < cfg.SOLVER.MAX_ITER})
    warmup = min(cfg.SOLVER.WARMUP_ITERS, int(MAX_WARMUP_SHARE * iterations))
    return {
        "SOLVER.MAX_ITER": iterations,
        "SOLVER.STEPS": [step for step in steps if warmup < step < iterations],
        "SOLVER.WARMUP_ITERS": warmup,
    }

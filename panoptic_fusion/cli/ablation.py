"""Trains variants of one config with several seeds and writes one table: mean and standard deviation of each metric.

    panoptic-fusion ablation SPEC.yaml --output FOLDER

The YAML file:

    base: toy/panoptic_fpn_r18.yaml             # optional: a file (relative to the working folder or to the YAML file)
                                                # or one of the project's configs
    seeds: [1, 2, 3]
    common: [SOLVER.MAX_ITER, 300]              # optional: for all runs
    metrics: [PQ, mIoU, segm AP]                # optional: columns, "TASK NAME"; the task defaults to panoptic_seg
    runs:
      baseline: []
      half lr: [SOLVER.BASE_LR, 0.01]
      strict overlap: {eval_of: baseline, opts: [MODEL.PANOPTIC_FUSION.OVERLAP_THRESH, 0.2]}
      another system: {config: toy/tascnet_r18.yaml, opts: [SOLVER.BASE_LR, 0.01]}

A run with `config` uses that config instead of the base. A run with `eval_of` evaluates the weights of another run with
the same seed, under different inference settings. The command writes table.md and results.json to FOLDER, and a folder
<name>/seed<seed> per run with its log, ablation.log. Run the same command again to continue after an interruption:
finished runs are kept, interrupted runs resume from their last checkpoint, and failed runs are retried.
"""

import argparse
import os
import shlex
from pathlib import Path

from .arguments import add_allow_download

HELP = "train variants of a config with several seeds and compare them in one table"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the YAML file and the output folder."""
    parser.add_argument("spec", type=Path, help="the YAML file")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs, table.md and results.json")
    parser.add_argument("--num-gpus", type=int, default=1, help="as in `panoptic-fusion train`, for each run")
    add_allow_download(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns 1 if a run failed."""
    return 1 if ablation(**vars(args)) else 0


def ablation(
    spec: str | os.PathLike, output: str | os.PathLike, *, num_gpus: int = 1, allow_download: bool = False
) -> list[str]:
    """Runs all unfinished runs of a YAML file and writes table.md and results.json.

    Args:
        spec: path to the YAML file, whose format is described in the docstring of this module.
        output: folder of the runs.
        num_gpus: number of processes per run; without a GPU they run on the CPU.
        allow_download: downloads weights from any address that a config names, see `check_downloads`.

    Returns:
        The failed runs, as "NAME, seed N".

    Raises:
        UserError, FileNotFoundError: nothing was run; the message names the problem.
    """
    from .experiments.runs import run_spec

    words = ["panoptic-fusion", "ablation", str(spec), "--output", str(output)]
    words += ["--num-gpus", str(num_gpus)] if num_gpus != 1 else []
    words += ["--allow-download"] if allow_download else []
    return run_spec(Path(spec), Path(output), num_gpus, shlex.join(words), allow_download=allow_download)

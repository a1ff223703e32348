#!/usr/bin/env python
"""Kills a small training run with -9 or -15 at random times; checks that --resume continues from the last checkpoint.

    python tools/kill_and_resume.py [--kills 10] [--seed 0] [--quick]

Half of the kills happen while a checkpoint is written, one during the final evaluation, and the others during training
or the start of the process. The tool checks after each kill that every .pth can be read, that `last_checkpoint` names
one of them, and that the next start continues at the iteration after it. At the end, the run must be complete and
evaluated. Exit code 1 if any check fails.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tabulate import tabulate

from panoptic_fusion.data.toy.scenes import generate_toy_scenes
from panoptic_fusion.engine.preflight import check_writable
from panoptic_fusion.errors import UserError, run_cli

CHECKPOINT_PERIOD = 3
SETTINGS = {
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 30,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 1,
    "INPUT.MIN_SIZE_TRAIN": "(64,)",
    "INPUT.MIN_SIZE_TEST": 64,
    "SOLVER.IMS_PER_BATCH": 1,
    "SOLVER.CHECKPOINT_PERIOD": CHECKPOINT_PERIOD,
}
TRAINING, EVALUATION = "Starting training from iteration", "Start inference on"
START_SECONDS = 5  # a kill during the start comes within this time
TIMEOUT = 300  # timeout in seconds for the expected line in the log


class CheckFailed(Exception):
    """Error raised if a check fails."""


class Attempt:
    """One start of a training run with --resume, whose console output goes to a file."""

    def __init__(self, opts: list[str], output: Path, log: Path):
        self.log = log
        self.messages = output / "log.txt"  # contains the messages of all starts, this one's at the end
        self.offset = self.messages.stat().st_size if self.messages.is_file() else 0
        self.began = time.monotonic()
        command = [sys.executable, "-W", "ignore", "-m", "panoptic_fusion", "train", "--resume"]
        command += ["--config-file", "toy/panoptic_fpn_r18.yaml", *opts, "OUTPUT_DIR", str(output)]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        with log.open("w") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=env)

    def wait_until(self, happened: Callable[[], bool], pause: float) -> bool:
        """Waits for an event; returns whether it happened before the process ended."""
        end = time.monotonic() + TIMEOUT
        while not happened():
            if self.process.poll() is not None:
                return False
            if time.monotonic() > end:
                raise CheckFailed(f"nothing happened in {TIMEOUT} s, see {self.log}")
            time.sleep(pause)
        return True

    def said(self) -> str:
        """Returns all messages so far, from log.txt; the console shows only a few of them."""
        if not self.messages.is_file():
            return ""
        return self.messages.read_bytes()[self.offset :].decode(errors="replace")

    def first_iteration(self) -> int | None:
        """Returns the iteration at which training started, or None if it had not started."""
        match = re.search(rf"{TRAINING} (\d+)", self.said())
        return int(match[1]) if match else None

    def kill(self, kind: signal.Signals) -> bool:
        """Kills the process with a signal; returns whether it was still running."""
        alive = self.process.poll() is None
        if alive:
            os.kill(self.process.pid, kind)
        self.process.wait()
        return alive


def wait_for_moment(attempt: Attempt, moment: str, output: Path, rng: random.Random, max_iter: int) -> None:
    """Waits until it is time to kill the process, or until the process has ended."""
    if moment == "start":
        time.sleep(rng.uniform(0, START_SECONDS))
        return
    attempt.wait_until(lambda: (EVALUATION if moment == "evaluation" else TRAINING) in attempt.said(), 0.02)
    if moment == "writing":
        time.sleep(rng.uniform(0, min(1, max_iter / 100)))
        attempt.wait_until(lambda: any(output.glob(".*.partial")), 0.0005)
        time.sleep(rng.uniform(0, 0.02))
    else:
        time.sleep(rng.uniform(0, 0.3 if moment == "evaluation" else 2))


def check_files(output: Path) -> int | None:
    """Checks the checkpoints; returns the iteration of the last one, or None if there is none.

    All other checkpoints are removed to save disk space.

    Raises:
        CheckFailed: a .pth is incomplete, or `last_checkpoint` does not name one of them.
    """
    iterations = {}
    for file in output.glob("*.pth"):
        try:
            iterations[file.name] = torch.load(file, map_location="cpu", weights_only=True)["iteration"]
        except Exception as error:
            raise CheckFailed(f"{file} cannot be read: {type(error).__name__}: {error}") from error
    pointer = output / "last_checkpoint"
    if not pointer.is_file():
        return None
    name = pointer.read_text()
    if name not in iterations:
        raise CheckFailed(f"last_checkpoint names {name!r}, which does not exist")
    for other in set(iterations) - {name}:
        (output / other).unlink()
    return iterations[name]


def check_start(attempt: Attempt, expected: int) -> str:
    """Checks that training continued at the expected iteration; returns the text for the table."""
    first = attempt.first_iteration()
    if first is None:
        return "(killed before)"
    if first != expected:
        raise CheckFailed(f"training resumed at iteration {first} instead of {expected}, see {attempt.log}")
    return str(first)


def check_end(attempt: Attempt, output: Path, max_iter: int) -> float:
    """Checks the end of the training run and returns the final PQ.

    Raises:
        CheckFailed: training or evaluation did not finish successfully.
    """
    if attempt.process.wait() != 0:
        raise CheckFailed(f"the last start ended with exit code {attempt.process.returncode}, see {attempt.log}")
    if check_files(output) != max_iter - 1 or (output / "last_checkpoint").read_text() != "model_final.pth":
        raise CheckFailed(f"the training run in {output} ended without model_final.pth of iteration {max_iter - 1}")
    left = list(output.glob(".*.partial"))
    if left:
        raise CheckFailed(f"half-written files are left: {left}")
    quality = json.loads((output / "results.json").read_text())["panoptic_seg"]
    if quality["PQ"] is None or quality["images"] < 1:
        raise CheckFailed(f"{output}/results.json has no PQ")
    return quality["PQ"]


def run(kills: int, seed: int, max_iter: int, folder: Path) -> None:
    """Runs the whole check and prints the table.

    Raises:
        CheckFailed: a check failed.
    """
    rng = random.Random(seed)
    data = generate_toy_scenes(folder / "scenes", num_train=8, num_val=8, size=(96, 128))
    entries = [{"name": f"kill_{split}", **data[split]} for split in data]
    names = {"DATASETS.TRAIN": "('kill_train',)", "DATASETS.TEST": "('kill_val',)", "DATASETS.REGISTER": str(entries)}
    opts = [str(word) for pair in {**SETTINGS, **names, "SOLVER.MAX_ITER": max_iter}.items() for word in pair]
    output = folder / "output"
    others = max(kills - 1, 0)
    moments = ["writing"] * -(-others // 2) + ["training"] * (others // 4) + ["start"] * (others // 2 - others // 4)
    rng.shuffle(moments)
    moments += ["evaluation"] * (kills > 0)
    rows, expected, half_written = [], 0, 0
    try:
        for number, moment in enumerate(moments, 1):
            before = set(output.glob(".*.partial"))
            attempt = Attempt(opts, output, folder / f"start{number}.log")
            wait_for_moment(attempt, moment, output, rng, max_iter)
            seconds = time.monotonic() - attempt.began
            killed = attempt.kill(rng.choice((signal.SIGKILL, signal.SIGTERM)))
            if not killed:
                raise CheckFailed(
                    f"start {number} ended by itself with exit code {attempt.process.returncode} before it was killed, "
                    f"see {attempt.log}; if it had finished, give more --iterations"
                )
            went_on = check_start(attempt, expected)
            partial = len(set(output.glob(".*.partial")) - before)
            half_written += partial > 0
            last = check_files(output)
            expected = 0 if last is None else last + 1
            rows.append([number, moment, f"{seconds:.1f}", went_on, "none" if last is None else last, partial])
            print(
                f"kill {number} of {kills} ({moment}) after {seconds:.1f} s: last checkpoint {rows[-1][4]}", flush=True
            )
        attempt = Attempt(opts, output, folder / "end.log")
        attempt.process.wait()
        rows.append(["-", "(not killed)", f"{time.monotonic() - attempt.began:.1f}", check_start(attempt, expected)])
        quality = check_end(attempt, output, max_iter)
        rows[-1] += [max_iter - 1, 0]
    finally:
        header = ["kill", "during", "seconds after start", "resumed at", "last checkpoint", "half-written files"]
        print("\n" + tabulate(rows, header, tablefmt="pipe"))
    print(f"\n{len(moments)} kills, {half_written} with a half-written file, which no start used; each start resumed")
    print(f"after the last checkpoint; the training run ended at iteration {max_iter - 1}, PQ {quality:.2f}.")


def main() -> int:
    """Runs the tool; returns 1 if a check failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, help="number of kills")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--iterations", type=int, default=250, help="number of iterations")
    parser.add_argument("--output", type=Path, help="a new folder, kept; default: a temporary one, kept on a violation")
    parser.add_argument("--quick", action="store_true", help="2 kills within 15 iterations: shows that it runs")
    if parser.parse_known_args()[0].quick:
        parser.set_defaults(kills=2, iterations=15)
    args = parser.parse_args()
    if args.kills < 0:
        raise UserError(f"--kills {args.kills}: must be at least 0")
    if args.output is not None:
        check_writable(str(args.output), "--output")
        args.output.mkdir(parents=True, exist_ok=True)
        if any(args.output.iterdir()):
            raise UserError(f"--output {args.output} is not empty: name a new folder")
    folder = args.output or Path(tempfile.mkdtemp(prefix="kill_and_resume_"))
    try:
        run(args.kills, args.seed, args.iterations, folder)
    except CheckFailed as error:
        print(f"VIOLATION: {error}", file=sys.stderr)
        return 1
    if args.output is None:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    run_cli(main)

"""Compares evaluation from files with panopticapi (the reference code), on the same files in one process each.

    python benchmarks/evaluate_files.py [--images 16] [--repeat 3]

Writes street scenes of 1024x2048 and distorted copies of them as predictions. Prints the CPU time per image of both
evaluations, from the two JSONs to the results (ours has PQ by segment size as well, and is timed with and without
boundary PQ), and by how much PQ, SQ, and RQ of a class differ. Exit code 1 if a number differs.
"""

import argparse
import contextlib
import io
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
from arguments import has_panopticapi, parse_arguments
from panoptic_quality import HEIGHT, NUM_STUFF, NUM_THINGS, WIDTH, street_pair, write_predictions

MEASURES = ("pq", "sq", "rq")


def reference(files: dict[str, str]) -> dict[str, Any]:
    """Returns panopticapi's results; its pool runs in this process, so that its CPU time is counted."""
    from panopticapi import evaluation

    def one_process(annotations, gt_folder, pred_folder, categories):
        return evaluation.pq_compute_single_core(0, annotations, gt_folder, pred_folder, categories)

    with (
        mock.patch.object(evaluation, "pq_compute_multi_core", one_process),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        return evaluation.pq_compute(files["gt_json"], files["pred_json"], files["gt_root"], files["pred_root"])


def ours(files: dict[str, str], *, boundary: bool) -> dict[str, Any]:
    """Returns our results, from one process."""
    from panoptic_fusion.evaluation.files import evaluate_files

    return evaluate_files(**files, processes=1, boundary=boundary)


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """Returns the result of a function, and its CPU seconds."""
    start = time.process_time()
    return function(), time.process_time() - start


def largest_difference(result: dict[str, Any], expected: dict[str, Any]) -> float:
    """Returns the largest difference of PQ, SQ, and RQ x 100 over all classes; infinite if different classes occur."""
    differences = [0.0]
    for class_id, row in enumerate(result["per_class"].values()):
        theirs = expected["per_class"][class_id]
        if row["TP"] + row["FP"] + row["FN"]:
            differences += [abs(row[key.upper()] - 100 * theirs[key]) for key in MEASURES]
        elif any(theirs[key] for key in MEASURES):
            differences.append(float("inf"))
    return max(differences)


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=16, help="number of images")
    parser.add_argument("--repeat", type=int, default=3, help="number of timed runs")
    args = parse_arguments(parser, images=2, repeat=1)
    if not has_panopticapi():
        return 1
    import panoptic_fusion.evaluation.files  # noqa: F401  (not a part of what is timed)

    cv2.setNumThreads(1)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        files = write_predictions(Path(folder), [street_pair(rng) for _ in range(args.images)])
        seconds = np.zeros((args.repeat, 3))
        for row in seconds:  # alternating, so that a busy machine meets all alike
            expected, row[0] = timed(lambda: reference(files))
            result, row[1] = timed(lambda: ours(files, boundary=True))
            _, row[2] = timed(lambda: ours(files, boundary=False))
    reference_ms, all_ms, plain_ms = np.median(seconds, axis=0) / args.images * 1e3
    difference = largest_difference(result, expected)
    print(
        f"{args.images} images of {HEIGHT}x{WIDTH}, {NUM_THINGS + NUM_STUFF} classes; median of {args.repeat} runs, "
        "one process\n\n| evaluation from files | CPU per image | ratio |\n|---|---|---|\n"
        f"| panopticapi | {reference_ms:.1f} ms | |\n"
        f"| ours, with boundary PQ | {all_ms:.1f} ms | {reference_ms / all_ms:.1f} |\n"
        f"| ours, without boundary PQ | {plain_ms:.1f} ms | {reference_ms / plain_ms:.1f} |\n\n"
        f"PQ, SQ, RQ x 100 of a class differ by at most {difference:.1e}"
    )
    return int(difference > 1e-9)


if __name__ == "__main__":
    sys.exit(main())

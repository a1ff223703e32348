"""Compares evaluation from files with panopticapi (the reference code) and hotcoco, in one process each.

    python benchmarks/evaluate_files.py [--images 16] [--repeat 3] [--png opencv|pillow]

Writes street scenes of 1024x2048 and distorted copies of them as predictions, as PNGs by OpenCV (as this project writes
them) or by Pillow (as the datasets' authors write them). Prints the CPU time per image of each evaluation, from the two
JSONs to the results (ours has PQ by segment size as well, and is timed with and without boundary PQ), and by how much
PQ, SQ, and RQ of a class differ from panopticapi's. hotcoco is left out if it is not installed. Exit code 1 if a number
differs.
"""

import argparse
import contextlib
import importlib.util
import io
import os
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
from PIL import Image

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


def hotcoco(files: dict[str, str]) -> dict[str, Any]:
    """Returns hotcoco's results; its threads, if any, count as well."""
    from hotcoco.panoptic import pq_compute

    with contextlib.redirect_stdout(io.StringIO()):
        return pq_compute(files["gt_json"], files["pred_json"], files["gt_root"], files["pred_root"])


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


def rewrite_with_pillow(*folders: str) -> None:
    """Writes the PNGs again with Pillow, which chooses a filter per row."""
    for path in (path for folder in folders for path in Path(folder).glob("*.png")):
        with Image.open(path) as image:
            image.load()
        image.save(path)


def main() -> int:
    """Runs the command line."""
    os.environ["RAYON_NUM_THREADS"] = "1"  # hotcoco's pool
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=16, help="number of images")
    parser.add_argument("--repeat", type=int, default=3, help="number of timed runs")
    parser.add_argument("--png", choices=("opencv", "pillow"), default="opencv", help="writer of the PNGs")
    args = parse_arguments(parser, images=2, repeat=1)
    if not has_panopticapi():
        return 1
    import panoptic_fusion.evaluation.files  # noqa: F401  (not a part of what is timed)

    cv2.setNumThreads(1)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        files = write_predictions(Path(folder), [street_pair(rng) for _ in range(args.images)])
        if args.png == "pillow":
            rewrite_with_pillow(files["gt_root"], files["pred_root"])
        evaluations = {"panopticapi": lambda: reference(files)}
        if importlib.util.find_spec("hotcoco"):
            evaluations["hotcoco"] = lambda: hotcoco(files)
        evaluations["ours, with boundary PQ"] = lambda: ours(files, boundary=True)
        evaluations["ours, without boundary PQ"] = lambda: ours(files, boundary=False)
        ours(files, boundary=True), ours(files, boundary=False)  # compiled loops are loaded once per process
        seconds = np.zeros((args.repeat, len(evaluations)))
        for row in seconds:  # alternating, so that a busy machine meets all alike
            results = {}
            for column, (name, evaluation) in enumerate(evaluations.items()):
                results[name], row[column] = timed(evaluation)
    ms = dict(zip(evaluations, np.median(seconds, axis=0) / args.images * 1e3, strict=True))
    difference = largest_difference(results["ours, with boundary PQ"], results["panopticapi"])
    print(
        f"{args.images} images of {HEIGHT}x{WIDTH}, {NUM_THINGS + NUM_STUFF} classes, PNGs by {args.png}; median of "
        f"{args.repeat} runs, one process\n\n| evaluation from files | CPU per image | ratio |\n|---|---|---|"
    )
    for name, value in ms.items():
        print(f"| {name} | {value:.1f} ms | {ms['panopticapi'] / value:.1f} |")
    print(f"\nPQ, SQ, RQ x 100 of a class differ by at most {difference:.1e}")
    return int(difference > 1e-9)


if __name__ == "__main__":
    sys.exit(main())

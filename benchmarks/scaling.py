"""Measures how time and memory of the fusions grow with instances, classes and pixels on the CPU, with exponents.

    OMP_NUM_THREADS=1 python benchmarks/scaling.py [--rules heuristic spatial_ranking]

One of the three grows at a time, from 100 instances, 19 classes and 1024x2048 pixels, on the street scene of
`fusion.py`, whose instances grow with the image. Times are medians of CPU time in one thread and include the semantic
argmax. The exponent is the steepest slope between two neighboring sizes in the double-logarithmic plot. Peak memory is
that of all tensors during a call, without the inputs.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from arguments import parse_arguments
from fusion import NUM_STUFF, NUM_THINGS, street_scene
from launches import RULES, build

from panoptic_fusion.cli.experiments.peak_memory import peak_bytes

INSTANCES, CLASSES, SIZE = 100, (NUM_STUFF, NUM_THINGS), (1024, 2048)
SIZES = ((768, 1408), SIZE, (2048, 4096), (4096, 8192))  # 1 to 32 million pixels
AXES = {
    "instances": [(num, CLASSES, SIZE) for num in (10, INSTANCES, 1000)],
    "classes": [(INSTANCES, classes, SIZE) for classes in (CLASSES, (53, 80), (120, 180))],
    "million pixels": [(INSTANCES, CLASSES, size) for size in SIZES],
}
QUICK_INSTANCES = [(num, CLASSES, (128, 256)) for num in (2, 4)]
MAX_EXPONENT = 1.1


def amount(axis: str, num: int, classes: tuple[int, int], size: tuple[int, int]) -> float:
    """Returns the value of one of `AXES`."""
    return {"instances": num, "classes": sum(classes), "million pixels": size[0] * size[1] / 1e6}[axis]


def cpu_seconds(function: Callable[[], object], repeats: int) -> float:
    """Returns the median CPU time of a call, after a warm-up."""
    function()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return statistics.median(times)


@torch.no_grad()
def main() -> int:
    """Entry point of the command-line tool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rules", nargs="+", choices=RULES, default=tuple(RULES))
    parser.add_argument("--grows", nargs="+", choices=AXES, default=tuple(AXES))
    parser.add_argument("--repeats", type=int, default=3)
    args = parse_arguments(parser, grows=("instances",), repeats=1)
    torch.set_num_threads(1)
    print(f"CPU, one thread, torch {torch.__version__}, median of {args.repeats}\n")
    print("| fusion | grows | values | ms | peak MiB | exponent |\n|---|---|---|---|---|---|")
    steepest = 0.0
    for axis in args.grows:
        settings = QUICK_INSTANCES if args.quick else AXES[axis]
        for name in args.rules:
            values, times, peaks = [], [], []
            for num, classes, size in settings:
                scene = street_scene(size, num, "cpu", num_classes=classes)
                run = partial(build(name, *classes), *scene)
                values.append(amount(axis, num, classes, size))
                times.append(cpu_seconds(run, args.repeats))
                peaks.append(peak_bytes(run, "cpu"))
            pairs = zip(values, values[1:], times, times[1:], strict=False)
            exponent = max(math.log(after / before) / math.log(large / small) for small, large, before, after in pairs)
            steepest = max(steepest, exponent)
            cells = [name, axis, *(", ".join(x) for x in (
                [f"{v:.0f}" for v in values], [f"{t * 1e3:.0f}" for t in times], [f"{p / 2**20:.0f}" for p in peaks]
            )), f"{exponent:.2f}"]  # fmt: skip
            print(f"| {' | '.join(cells)} |", flush=True)
    print(f"\nsteepest: {steepest:.2f}, limit {MAX_EXPONENT}")
    return 0 if steepest <= MAX_EXPONENT or args.quick else 1


if __name__ == "__main__":
    sys.exit(main())

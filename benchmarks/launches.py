"""Counts kernel launches and blocking reads of every fusion, as for a GPU, on a machine without one.

    python benchmarks/launches.py [--instances 10 100 300] [--size 1024 2048]

"loop" processes one instance after another, as on a CPU. "flat" processes all instances at once, as on a GPU. Both run
on the simulated device of `simulated_device.py`, on the street scene of `fusion.py` with semantic logits that show the
things. The counts include the check for non-finite numbers. They exclude the argmax of the semantic logits, which does
not depend on the instances. "reads" are points where the CPU waits for values of the GPU; "all" also includes
`bincount` and copies from the CPU.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from unittest import mock

import torch
from arguments import parse_arguments
from detectron2.structures import Boxes, Instances
from fusion import NUM_STUFF, NUM_THINGS, OVERLAP, SCORE, STUFF_AREA, street_scene
from launch_counter import Counts, LaunchCounter
from simulated_device import DEVICE, to_device

from panoptic_fusion.data.label_space import LabelSpace
from panoptic_fusion.modeling.fusion import (
    HeuristicFusion,
    MaskGuidedFusion,
    PanopticFusion,
    SeamlessFusion,
    SemSegLogits,
    SpatialRankingFusion,
    UPSNetFusion,
)
from panoptic_fusion.modeling.fusion.oanet import spatial_ranking
from panoptic_fusion.modeling.fusion.paint import FLAT_DEVICES
from panoptic_fusion.modeling.fusion.upsnet import fusion as upsnet_fusion

RULES: dict[str, tuple[type[PanopticFusion], dict]] = {
    "heuristic": (HeuristicFusion, {}),
    "seamless": (SeamlessFusion, {}),
    "mask_guided": (MaskGuidedFusion, {"overlap_thresh": 0.4}),
    "mask_guided, agreement iou": (MaskGuidedFusion, {"agreement": "iou", "agreement_thresh": 0.01}),
    "mask_guided, overlap iou": (MaskGuidedFusion, {"overlap": "iou"}),
    "spatial_ranking": (SpatialRankingFusion, {"stuff_channels_only": True}),
    "upsnet": (UPSNetFusion, {"overlap_thresh": 0.3}),
}
"""{name: class and constructor arguments other than the common ones}."""

PARTS = {"spatial_ranking": (spatial_ranking, "rank_by_module"), "upsnet": (upsnet_fusion, "panoptic_argmax")}
"""{name: module and name of a function that computes a part of the fusion, which is also counted alone}."""


class ArgmaxApart(SemSegLogits):
    """Semantic logits whose argmax a counter does not count."""

    counter: LaunchCounter

    def argmax(self) -> torch.Tensor:
        """Returns the argmax."""
        with ArgmaxApart.counter.paused():
            return super().argmax()


def build(name: str, num_stuff: int = NUM_STUFF, num_things: int = NUM_THINGS) -> PanopticFusion:
    """Builds a fusion of `RULES`."""
    categories = [
        {"id": i, "name": f"class {i}", "isthing": int(i >= num_stuff), "color": [0, 0, i % 256]}
        for i in range(num_stuff + num_things)
    ]
    torch.manual_seed(0)  # the weights of the ranking module
    kind, arguments = RULES[name]
    common = {"instances_confidence_thresh": SCORE, "overlap_thresh": OVERLAP, "stuff_area_limit": STUFF_AREA}
    return kind(label_space=LabelSpace.from_categories(categories), ontology="full", **{**common, **arguments})


def scene_with_things(size: tuple[int, int], num_instances: int) -> tuple[SemSegLogits, Instances]:
    """Returns the street scene of `fusion.py` with higher logits of each instance's class in its box."""
    sem_seg, instances = street_scene(size, num_instances, "cpu")
    boxes = (instances.pred_boxes.tensor / sem_seg.stride).round().int().tolist()
    for (x0, y0, x1, y1), thing in zip(boxes, instances.pred_classes.tolist(), strict=True):
        sem_seg.logits[NUM_STUFF + thing, y0:y1, x0:x1] += 6
    return sem_seg, instances


@contextmanager
def flat_on(device: str) -> Iterator[None]:
    """Processes all instances at once on a type of device."""
    FLAT_DEVICES.add(device)
    try:
        yield
    finally:
        FLAT_DEVICES.discard(device)


@torch.no_grad()
def count(name: str, size: tuple[int, int], num_instances: int, *, flat: bool) -> tuple[Counts, Counts]:
    """Counts one fusion of `RULES`.

    Args:
        name: key of `RULES`.
        size: height and width of the image, multiples of 128.
        num_instances: number of instances.
        flat: whether all instances are processed at once.

    Returns:
        the counts of the fusion, and of its part in `PARTS` alone.
    """
    fusion = build(name)
    sem_seg, instances = scene_with_things(size, num_instances)
    fields = {key: to_device(x.tensor if key == "pred_boxes" else x) for key, x in instances.get_fields().items()}
    fields["pred_boxes"] = Boxes(fields["pred_boxes"])
    ArgmaxApart.counter = counter = LaunchCounter()
    part = Counts()

    def counted(function: Callable) -> Callable:
        def run(*args, **kwargs):
            nonlocal part
            before = replace(counter.counts)
            result = function(*args, **kwargs)
            part = counter.counts - before
            return result

        return run

    with ExitStack() as stack:
        if flat:
            stack.enter_context(flat_on(DEVICE))
        if name in PARTS:
            module, function = PARTS[name]
            stack.enter_context(mock.patch.object(module, function, counted(getattr(module, function))))
        stack.enter_context(counter)
        with counter.paused():
            fusion.to(DEVICE)
        fusion(ArgmaxApart(to_device(sem_seg.logits), size, size, size), Instances(size, **fields))
    return counter.counts, part


def row(name: str, num: int, *counts: Counts) -> str:
    """Returns a line of the table."""
    cells = [name, num, *(x for c in counts for x in (c.launches, c.reads, c.all_reads))]
    return f"| {' | '.join(map(str, cells))} |"


def main() -> int:
    """Entry point of the command-line tool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, nargs="+", default=(10, 100, 300))
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048), help="height and width, multiples of 128")
    parser.add_argument("--rules", nargs="+", choices=RULES, default=tuple(RULES))
    args = parse_arguments(parser, instances=(5,), size=(128, 256))
    print(f"{args.size[0]}x{args.size[1]}, torch {torch.__version__}\n")
    print("| fusion | instances | launches, loop | reads | all | launches, flat | reads | all |")
    print("|---|---|---|---|---|---|---|---|")
    for name in args.rules:
        for num in args.instances:
            whole, parts = zip(*(count(name, tuple(args.size), num, flat=flat) for flat in (False, True)), strict=True)
            print(row(name, num, *whole), flush=True)
            if name in PARTS:
                print(row(f"{name}: {PARTS[name][1]} alone", num, *parts), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

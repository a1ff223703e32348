"""Counts kernel launches and blocking reads of every fusion, as a GPU would see them, without one.

    python benchmarks/launches.py [--instances 10 100 300] [--size 1024 2048]

"loop" processes one instance after another, as on a CPU. "flat" processes all instances at once, as on a GPU. Both run
on the simulated device of `launch_counter.py`, on the street scene of `fusion.py`, in which things have semantic logits
of their class. The counts include the check for non-finite numbers. The argmax of the semantic logits is apart, because
it does not depend on the instances. "reads" are points where the CPU waits for values of the GPU; "all" also includes
`bincount` and copies from the CPU.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from unittest import mock

import torch
from arguments import parse_arguments
from detectron2.structures import Boxes, Instances
from fusion import NUM_STUFF, NUM_THINGS, OVERLAP, SCORE, STUFF_AREA, street_scene
from launch_counter import DEVICE, LaunchCounter, to_device

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

UPSNET_ARGMAX = "upsnet, argmax alone"


@dataclass(frozen=True)
class Count:
    """Counts of one fusion; see `launch_counter.py`. `all_reads` includes hidden reads."""

    launches: int
    reads: int
    all_reads: int


class ArgmaxApart(SemSegLogits):
    """Semantic logits whose argmax a counter does not count."""

    counter: LaunchCounter

    def argmax(self) -> torch.Tensor:
        """Returns the argmax."""
        with ArgmaxApart.counter.paused():
            return super().argmax()


def build(name: str) -> PanopticFusion:
    """Builds a fusion of `RULES`."""
    categories = [
        {"id": i, "name": f"class {i}", "isthing": int(i >= NUM_STUFF), "color": [0, 0, i]}
        for i in range(NUM_STUFF + NUM_THINGS)
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
def count(name: str, size: tuple[int, int], num_instances: int, *, flat: bool) -> dict[str, LaunchCounter]:
    """Counts one fusion of `RULES`.

    Returns:
        {name: counter}, for UPSNet also of its argmax alone.
    """
    fusion = build(name)
    sem_seg, instances = scene_with_things(size, num_instances)
    fields = {key: to_device(x.tensor if key == "pred_boxes" else x) for key, x in instances.get_fields().items()}
    fields["pred_boxes"] = Boxes(fields["pred_boxes"])
    ArgmaxApart.counter = counter = LaunchCounter()
    argmax = LaunchCounter()

    def counted_argmax(*args, **kwargs):
        with counter.paused(), argmax:
            return panoptic_argmax(*args, **kwargs)

    with flat_on(DEVICE) if flat else nullcontext(), counter:
        fusion(ArgmaxApart(to_device(sem_seg.logits), size, size, size), Instances(size, **fields))
        if name == "upsnet":
            with mock.patch.object(upsnet_fusion, "panoptic_argmax", counted_argmax):
                pass
    return {name: counter}


def main() -> int:
    """Entry point of the command-line tool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, nargs="+", default=(10, 100, 300))
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048), help="height and width, multiples of 128")
    parser.add_argument("--rules", nargs="+", choices=RULES, default=tuple(RULES))
    parser.add_argument("--operators", action="store_true", help="also print the number of launches by operator")
    args = parse_arguments(parser, instances=(5,), size=(128, 256))
    for num in args.instances:
        for name in args.rules:
            for flat in (False, True):
                c = count(name, tuple(args.size), num, flat=flat)[name]
                print(num, name, flat, c.launches, c.reads, c.hidden_reads)
                if args.operators and flat:
                    print(c.operators)
    return 0


if __name__ == "__main__":
    sys.exit(main())

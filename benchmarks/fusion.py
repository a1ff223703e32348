"""Compares fusion with detectron2's function on the same input: identical result, time, CPU-GPU synchronizations.

    python benchmarks/fusion.py [--device cuda] [--instances 100] [--size 1024 2048]

Two pairs are compared. `masks`: both get full bit masks and a label map. `model`: both get the network's outputs
(28 x 28 mask logits with boxes, semantic logits at 1/4 resolution); detectron2 first pastes all masks, upsamples all
logits and takes their argmax. Instances and semantic logits are synthetic: overlapping ellipses with the sizes of a
street scene (many small, few large) on blocks of stuff.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from arguments import parse_arguments
from detectron2.layers import paste_masks_in_image
from detectron2.modeling.meta_arch.panoptic_fpn import combine_semantic_and_instance_outputs
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.structures import Boxes, Instances
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from panoptic_fusion.data.label_space import LabelSpace
from panoptic_fusion.modeling.fusion import HeuristicFusion, SemSegLogits

NUM_STUFF, NUM_THINGS, STRIDE, MASK_SIDE = 11, 8, 4, 28
OVERLAP, STUFF_AREA, SCORE = 0.5, 4096, 0.5


class HostReads(TorchDispatchMode):
    """Counter of how often the CPU reads tensor values: item(), bool(), tolist(), ..., also inside operators."""

    def __init__(self):
        super().__init__()
        self.count = 0
        self._tolist = torch.Tensor.tolist

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))

    def __enter__(self):
        def tolist(tensor):
            self.count += 1
            return self._tolist(tensor.detach())

        torch.Tensor.tolist = tolist
        return super().__enter__()

    def __exit__(self, *args):
        torch.Tensor.tolist = self._tolist
        return super().__exit__(*args)


def street_scene(
    size: tuple[int, int],
    num_instances: int,
    device: str,
    seed: int = 0,
    num_classes: tuple[int, int] = (NUM_STUFF, NUM_THINGS),
):
    """Returns random semantic logits and instances with mask logits, of realistic sizes; `num_classes` are (S, T)."""
    height, width = size
    rng = torch.Generator().manual_seed(seed)

    def uniform(*shape, low=0.0, high=1.0):
        return torch.rand(*shape, generator=rng) * (high - low) + low

    # Sides are log-uniform between 12 and 600 pixels of an image 1024 pixels high.
    side = (uniform(num_instances) * torch.tensor(50.0).log()).exp() * 12 * height / 1024
    ratio = uniform(num_instances, low=0.5, high=2).sqrt()
    wh = torch.stack([side * ratio, side / ratio], dim=1)
    centre = uniform(num_instances, 2) * torch.tensor([width, height * 0.6]) + torch.tensor([0, height * 0.3])
    boxes = Boxes(torch.cat([centre - wh / 2, centre + wh / 2], dim=1))
    boxes.clip(size)

    axis = torch.linspace(-1, 1, MASK_SIDE)
    radius = (axis[:, None] ** 2 + axis[None] ** 2).sqrt()
    mask_logits = 8 * (0.95 - radius) + uniform(num_instances, MASK_SIDE, MASK_SIDE, low=-1.5, high=1.5)

    channels = sum(num_classes)
    coarse = 6 * uniform(1, channels, height // 128, width // 128, low=-1, high=1)
    logits = F.interpolate(coarse, size=(height // STRIDE, width // STRIDE), mode="bicubic")[0]
    logits = logits + 0.2 * uniform(*logits.shape, low=-1, high=1)

    instances = Instances(size)
    instances.pred_boxes = boxes
    instances.scores = uniform(num_instances, low=0.5, high=1.0)
    instances.pred_classes = torch.randint(num_classes[1], (num_instances,), generator=rng)
    instances.pred_mask_logits = mask_logits
    instances = instances[boxes.nonempty()].to(device)
    return SemSegLogits(logits.to(device), size, size, size), instances


class LabelMap:
    """Replacement for semantic logits in the pair `masks`, whose label map is given."""

    def __init__(self, labels: torch.Tensor):
        self.labels = labels

    @property
    def output_size(self) -> tuple[int, int]:
        """Size (H, W) of the label map."""
        return tuple(self.labels.shape)

    def argmax(self) -> torch.Tensor:
        """Returns the label map."""
        return self.labels


def to_detectron2_labels(labels: torch.Tensor) -> torch.Tensor:
    """Converts our channels (stuff first, then things) to detectron2's convention: 0 = things, 1 + s = stuff s."""
    return torch.where(labels < NUM_STUFF, labels + 1, torch.zeros_like(labels))


def detectron2_fusion(sem_seg: SemSegLogits, instances: Instances):
    """Fuses the outputs of a network in the same way as detectron2's Panoptic FPN."""
    size = sem_seg.output_size
    pasted = Instances(size, **instances.get_fields())
    pasted.remove("pred_mask_logits")
    pasted.pred_masks = paste_masks_in_image(instances.pred_mask_logits.sigmoid(), instances.pred_boxes, size)
    enlarged = F.interpolate(sem_seg.logits[None], scale_factor=STRIDE, mode="bilinear", align_corners=False)
    semantic = to_detectron2_labels(sem_seg_postprocess(enlarged[0], size, *size).argmax(dim=0))
    return combine_semantic_and_instance_outputs(pasted, semantic, OVERLAP, STUFF_AREA, SCORE)


def identical(ours, theirs) -> bool:
    """Returns whether two results agree, except for `area`, which only our things have, and the shifted stuff ids."""
    ours_map, ours_info = ours
    theirs_map, theirs_info = theirs
    ours_info = [{k: v for k, v in s.items() if k != "area" or not s["isthing"]} for s in ours_info]
    theirs_info = [s if s["isthing"] else {**s, "category_id": s["category_id"] - 1} for s in theirs_info]
    return torch.equal(ours_map, theirs_map) and ours_info == theirs_info


def count_reads(function: Callable) -> int:
    """Returns how often the CPU reads tensor values during a call of `function`."""
    with HostReads() as reads:
        function()
    return reads.count


def seconds(functions: list[Callable], repeats: int, device: str) -> list[float]:
    """Returns the median seconds of each function; calls are interleaved, after one warm-up each."""
    times = [[] for _ in functions]
    for repeat in range(repeats + 1):
        for function, samples in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            if device != "cpu":
                torch.cuda.synchronize()
            if repeat:
                samples.append(time.perf_counter() - start)
    return [statistics.median(samples) for samples in times]


@torch.no_grad()
def main() -> int:
    """Entry point of the command-line tool."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--instances", type=int, default=100)
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048), help="height and width, multiples of 128")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    args = parse_arguments(parser, device="cpu", instances=10, size=(128, 256), repeats=1)
    torch.set_num_threads(args.threads)
    size = tuple(args.size)

    sem_seg, with_logits = street_scene(size, args.instances, args.device)
    with_masks = Instances(size, **with_logits.get_fields())
    with_masks.remove("pred_mask_logits")
    probabilities = with_logits.pred_mask_logits.sigmoid()
    with_masks.pred_masks = paste_masks_in_image(probabilities, with_logits.pred_boxes, size)
    labels = sem_seg.argmax()
    their_labels = to_detectron2_labels(labels)
    label_map = LabelMap(labels)

    categories = [
        {"id": i, "name": f"class {i}", "isthing": int(i >= NUM_STUFF), "color": [0, 0, i]}
        for i in range(NUM_STUFF + NUM_THINGS)
    ]
    fusion = HeuristicFusion(
        label_space=LabelSpace.from_categories(categories),
        ontology="full",
        instances_confidence_thresh=SCORE,
        overlap_thresh=OVERLAP,
        stuff_area_limit=STUFF_AREA,
    )

    pairs = {
        "masks": (
            lambda: fusion.combine(label_map, with_masks, None),
            lambda: combine_semantic_and_instance_outputs(with_masks, their_labels, OVERLAP, STUFF_AREA, SCORE),
        ),
        "model": (lambda: fusion(sem_seg, with_logits), lambda: detectron2_fusion(sem_seg, with_logits)),
    }
    print(f"{size[0]}x{size[1]}, {len(with_logits)} instances, {args.device}, {args.threads} threads")
    print(f"torch {torch.__version__}, median of {args.repeats} alternating runs\n")
    print("| input | ours, ms | detectron2, ms | ratio | identical | segments | reads, ours | reads, detectron2 |")
    print("|---|---|---|---|---|---|---|---|")
    agree = True
    for name, (ours, theirs) in pairs.items():
        our_result, their_result = ours(), theirs()
        reads = count_reads(ours), count_reads(theirs)
        our_time, their_time = seconds([ours, theirs], args.repeats, args.device)
        same = "yes" if identical(our_result, their_result) else "NO"
        agree &= same == "yes"
        times = f"{our_time * 1e3:.1f} | {their_time * 1e3:.1f} | {their_time / our_time:.1f}"
        print(f"| {name} | {times} | {same} | {len(our_result[1])} | {reads[0]} | {reads[1]} |")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())

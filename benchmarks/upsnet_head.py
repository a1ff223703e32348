"""Compares UPSNet's panoptic head at inference with the same head on the full logit tensor: map, time, memory.

    python benchmarks/upsnet_head.py [--device cuda] [--instances 100] [--size 1024 2048]

Both get the network's outputs: semantic logits of 19 classes at 1/4 resolution, and the instances of the head with
boxes and 28 x 28 mask logits. Both return the argmax over [stuff, instances, unknown] and the semantic argmax that the
class assignment needs. The full tensor is (S + N + 1, H, W) float32.

Peak memory is the maximum additional tensor memory: torch.cuda.max_memory_allocated, or on the CPU the allocations
recorded by torch's profiler. The limits are from the project's issue 5: 1/4 of the time, 1/5 of the memory, and an
identical map. The exit code is 1 if a limit is exceeded. The last line is the complete UPSNetFusion, with box
suppression, mask pruning and class assignment. The default is one thread: on a busy machine, two torch threads spend
most of their time waiting for each other.
"""

from __future__ import annotations

import argparse
import sys

import torch
from arguments import parse_arguments
from detectron2.structures import Instances
from fusion import NUM_STUFF, NUM_THINGS, count_reads, seconds, street_scene
from torch.nn import functional as F

from panoptic_fusion.cli.experiments.peak_memory import peak_bytes
from panoptic_fusion.data.label_space import LabelSpace
from panoptic_fusion.modeling.fusion import SemSegLogits, UPSNetFusion
from panoptic_fusion.modeling.fusion.upsnet.mask_logit_crops import MaskLogitCrops
from panoptic_fusion.modeling.fusion.upsnet.panoptic_argmax import panoptic_argmax

MAX_TIME, MAX_MEMORY = 0.25, 0.2


def full_tensor_argmax(sem_seg: SemSegLogits, instances: Instances) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the result of `panoptic_argmax` for all instances, computed from the full logit tensor."""
    num, semantic = len(instances), sem_seg.full()
    height, width = semantic.shape[1:]
    z = semantic.new_zeros(NUM_STUFF + num + 1, height, width)
    z[:NUM_STUFF] = semantic[:NUM_STUFF]
    start, last = instances.pred_boxes.tensor[:, :2].trunc(), instances.pred_boxes.tensor[:, 2:] - 1
    mask_size = (last.trunc() - start + 1).clamp(min=1)
    end = torch.maximum(last.round() + 1, start + mask_size)
    boxes = torch.cat([start, mask_size, end], 1).long().tolist()
    channels = (NUM_STUFF + instances.pred_classes).tolist()
    for i, (x0, y0, _, _, x1, y1) in enumerate(boxes):
        z[NUM_STUFF + i, y0:y1, x0:x1] = semantic[channels[i], y0:y1, x0:x1]
    z[-1] = semantic[NUM_STUFF:].amax(0) - z[NUM_STUFF:-1].amax(0)
    for i, (x0, y0, w, h, _, _) in enumerate(boxes):
        mask = F.interpolate(instances.pred_mask_logits[i][None, None], size=(h, w), mode="bilinear")[0, 0]
        z[NUM_STUFF + i, y0 : y0 + h, x0 : x0 + w] += mask
    return z.argmax(0).short(), semantic.argmax(0).clamp(max=NUM_STUFF).short()


def running_argmax(sem_seg: SemSegLogits, instances: Instances) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the same without the full logit tensor, as in UPSNetFusion."""
    order = range(len(instances))
    masks = MaskLogitCrops.from_instances(instances, torch.arange(len(instances), device=instances.scores.device))
    channels = (NUM_STUFF + instances.pred_classes).tolist()
    return panoptic_argmax(sem_seg, masks, order, channels, num_stuff=NUM_STUFF)


@torch.no_grad()
def main() -> int:
    """Entry point of the command-line tool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--instances", type=int, default=100)
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048), help="height and width, multiples of 128")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parse_arguments(parser, device="cpu", instances=10, size=(128, 256), repeats=1)
    torch.set_num_threads(args.threads)
    size, device = tuple(args.size), args.device

    sem_seg, instances = street_scene(size, args.instances, device)
    instances = instances[instances.scores.argsort(descending=True)]
    running, full = (lambda f=f: f(sem_seg, instances) for f in (running_argmax, full_tensor_argmax))
    results = running(), full()
    same = all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    times = seconds([running, full], args.repeats, device)
    peaks = [peak_bytes(function, device) for function in (running, full)]

    categories = [
        {"id": i, "name": f"class {i}", "isthing": int(i >= NUM_STUFF), "color": [0, 0, i]}
        for i in range(NUM_STUFF + NUM_THINGS)
    ]
    fusion = UPSNetFusion(
        label_space=LabelSpace.from_categories(categories),
        ontology="full",
        instances_confidence_thresh=0.6,
        overlap_thresh=0.3,
        stuff_area_limit=2048,
    )
    whole = lambda: fusion(sem_seg, instances)  # noqa: E731
    whole_time, reads = seconds([whole], args.repeats, device)[0], count_reads(whole)

    print(f"{size[0]}x{size[1]}, {NUM_STUFF + NUM_THINGS} classes, {len(instances)} instances, {device}, ", end="")
    print(f"{args.threads} threads, torch {torch.__version__}, median of {args.repeats} alternating runs\n")
    print("| | running argmax | full tensor | ratio | limit |")
    print("|---|---|---|---|---|")
    ratios = times[0] / times[1], peaks[0] / peaks[1]
    print(f"| time, ms | {times[0] * 1e3:.0f} | {times[1] * 1e3:.0f} | {ratios[0]:.3f} | {MAX_TIME} |")
    print(f"| peak memory, MiB | {peaks[0] / 2**20:.0f} | {peaks[1] / 2**20:.0f} | {ratios[1]:.3f} | {MAX_MEMORY} |")
    different = int((results[0][0] != results[1][0]).sum())
    print(f"| identical map | {'yes' if same else f'NO, {different} pixels differ'} | | | |")
    things = sum(s["isthing"] for s in whole()[1])
    print(f"\nUPSNetFusion as a whole: {whole_time * 1e3:.0f} ms, {things} instances win pixels, {reads} reads")
    return 0 if same and (args.quick or ratios[0] <= MAX_TIME and ratios[1] <= MAX_MEMORY) else 1


if __name__ == "__main__":
    sys.exit(main())

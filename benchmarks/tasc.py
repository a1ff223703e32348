"""Measures the cost of the TASC loss: time and peak memory of interleaved training steps with and without it.

    python benchmarks/tasc.py [--config-file configs/toy/tascnet_r18.yaml --size 128 192 --images 8 --device cuda]

Both use the same model in one process; only the weight of the loss changes (0 skips its computation). Images are noise
with ellipses as things. Peak memory is the maximum additional tensor memory during forward and backward:
torch.cuda.max_memory_allocated, or on the CPU the allocations recorded by torch's profiler.
"""

import argparse
import statistics
import time
from functools import partial
from pathlib import Path

import torch
from arguments import parse_arguments
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances
from detectron2.utils.events import EventStorage

from panoptic_fusion import get_cfg
from panoptic_fusion.cli.experiments.peak_memory import peak_bytes

NUM_STUFF, NUM_THINGS = 11, 8


def build(config_file: str, device: str) -> torch.nn.Module:
    """Builds the config's model with random weights and the class counts of Cityscapes."""
    cfg = get_cfg()
    cfg.merge_from_file(config_file)
    cfg.DATASETS.REGISTER, cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = [], [], []
    cfg.MODEL.CATEGORIES = [
        {"id": i + 1, "name": f"c{i}", "isthing": int(i < NUM_THINGS), "color": [0, 0, i]}
        for i in range(NUM_STUFF + NUM_THINGS)
    ]
    cfg.MODEL.DEVICE = device
    return build_model(cfg).train()


def batch(num_images: int, size: tuple[int, int], num_things: int) -> list[dict]:
    """Returns training dicts: noise, stuff in stripes, and ellipses of many sizes as things."""
    generator = torch.Generator().manual_seed(0)
    height, width = size
    y, x = torch.arange(height)[:, None] + 0.5, torch.arange(width)[None] + 0.5
    records = []
    for _ in range(num_images):
        sem_seg = (y * NUM_STUFF / height).long().expand(size).clone()
        masks, classes = [], torch.randint(0, NUM_THINGS, (num_things,), generator=generator)
        for thing in classes:
            cy, cx, ry, rx = torch.rand(4, generator=generator).tolist()
            cy, cx, ry, rx = cy * height, cx * width, ry * height / 4, rx * width / 6
            mask = ((y - cy) / (ry + 4)) ** 2 + ((x - cx) / (rx + 4)) ** 2 < 1
            sem_seg[mask] = NUM_STUFF + int(thing)
            masks.append(mask)
        gt_masks = BitMasks(torch.stack(masks))
        image = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
        instances = Instances(size, gt_boxes=gt_masks.get_bounding_boxes(), gt_classes=classes, gt_masks=gt_masks)
        records.append({"image": image, "sem_seg": sem_seg, "instances": instances, "height": height, "width": width})
    return records


def step(model: torch.nn.Module, records: list[dict]) -> None:
    """Runs forward and backward."""
    torch.manual_seed(0)  # the same proposals are sampled each time
    model.zero_grad(set_to_none=True)
    with EventStorage():
        sum(model(records).values()).backward()


def seconds(model: torch.nn.Module, records: list[dict], device: str) -> float:
    """Returns the seconds of one step; on the CPU, the process time, which other jobs disturb less."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    start = clock()
    step(model, records)
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - start


def main() -> None:
    """Entry point of the command-line tool."""
    root = Path(__file__).resolve().parents[1]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", default=str(root / "configs" / "toy" / "tascnet_r18.yaml"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--things", type=int, default=10, help="an image")
    parser.add_argument("--size", type=int, nargs=2, default=(128, 192), help="height and width")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    args = parse_arguments(parser, device="cpu", images=1, things=2, size=(64, 96), repeats=1)
    torch.set_num_threads(args.threads)
    model = build(args.config_file, args.device)
    records = batch(args.images, tuple(args.size), args.things)
    weights = {"without": 0.0, "with TASC": 1.0}
    times: dict[str, list[float]] = {name: [] for name in weights}
    peaks = {}
    for repeat in range(args.repeats + 2):
        for name, weight in weights.items():
            model.fusion.tasc_loss_weight = weight
            taken = seconds(model, records, args.device)
            if repeat >= 2:
                times[name].append(taken)
    for name, weight in weights.items():
        model.fusion.tasc_loss_weight = weight
        model.zero_grad(set_to_none=True)
        peaks[name] = peak_bytes(partial(step, model, records), args.device)

    height, width = args.size
    print(
        f"{Path(args.config_file).stem}, {args.images} x {height}x{width}, {args.things} things each, {args.device}, "
        f"{args.threads} threads, torch {torch.__version__}, {args.repeats} steps each, interleaved\n"
    )
    print("| step | median, ms | fastest, ms | peak memory, MiB |")
    print("|---|---|---|---|")
    for name in weights:
        median, fastest = statistics.median(times[name]), min(times[name])
        print(f"| {name} | {median * 1e3:.1f} | {fastest * 1e3:.1f} | {peaks[name] / 2**20:.1f} |")
    pairs = [b / a for a, b in zip(times["without"], times["with TASC"], strict=True)]
    memory = peaks["with TASC"] / peaks["without"]
    print(f"| ratio | {statistics.median(pairs):.3f} (of the pairs) | | {memory:.3f} |")


if __name__ == "__main__":
    main()

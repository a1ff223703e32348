"""Measurements of `gpu.py`. Each part is a function that reports one row per measurement.

Shapes: N is the batch size, H x W the size of an image.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import detectron2
import numpy as np
import torch
import torchvision
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from fusion import NUM_STUFF, NUM_THINGS, detectron2_fusion, seconds
from in_place_abn import NORMS, measure
from launches import RULES, build, scene_with_things
from torch import nn
from upsnet_head import full_tensor_argmax, running_argmax

from panoptic_fusion import config_file, train
from panoptic_fusion.cli.experiments.peak_memory import peak_bytes
from panoptic_fusion.config.read import read_config
from panoptic_fusion.data.toy.scenes import generate_toy_scenes
from panoptic_fusion.layers.deform_conv import deform_conv2d
from panoptic_fusion.modeling.fusion.paint import FLAT_DEVICES

ROOT = Path(__file__).resolve().parents[1]
SYSTEMS = ("panoptic_fpn", "tascnet", "seamless", "upsnet", "oanet")
PEER = "detectron2's Panoptic FPN"
Report = Callable[..., None]
"""Function that writes a row: what was measured, and the values by column."""


def cuda_tests(args: argparse.Namespace, report: Report) -> None:
    """Runs the tests that need a GPU."""
    tests = ["tests/modeling/fusion/test_flat_paint.py"] if args.quick else ["tests"]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-x", "--durations=3", *tests]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    print(done.stdout, done.stderr)
    summary = next((line for line in reversed(done.stdout.splitlines()) if "passed" in line or "skipped" in line), "")
    report("tests that need a GPU", note=summary.strip("= "))
    if done.returncode:
        raise RuntimeError(f"pytest ended with exit code {done.returncode}")


@torch.no_grad()
def fusions(args: argparse.Namespace, report: Report) -> None:
    """Times every fusion with all instances at once, in a loop over them, and detectron2's function."""
    size = (128, 256) if args.quick else (1024, 2048)
    for num in (5,) if args.quick else (10, 100, 300):
        sem_seg, instances = scene_with_things(size, num)
        sem_seg = type(sem_seg)(sem_seg.logits.to(args.device), size, size, size)
        instances = instances.to(args.device)
        for name in RULES:
            fusion = build(name).to(args.device)
            run = partial(fusion, sem_seg, instances)
            ways = [partial(with_flat, flat, run, args) for flat in (True, False)]
            flat, loop, theirs = seconds([*ways, partial(detectron2_fusion, sem_seg, instances)], 3, args.device)
            same = torch.equal(ways[0]()[0], ways[1]()[0])
            report(
                f"{name}, {num} instances, {size[0]}x{size[1]}", ours=ms(flat), loop=ms(loop), peer=ms(theirs),
                ratio=theirs / flat, note="" if same else "MAPS DIFFER",
            )  # fmt: skip


def ms(seconds_taken: float) -> str:
    """Returns a time in milliseconds with its unit."""
    return f"{seconds_taken * 1e3:.2f} ms"


def with_flat(flat: bool, run: Callable[[], Any], args: argparse.Namespace) -> Any:
    """Calls a function with all instances at once or in a loop over them."""
    kind = torch.device(args.device).type
    before = kind in FLAT_DEVICES
    (FLAT_DEVICES.add if flat else FLAT_DEVICES.discard)(kind)
    try:
        return run()
    finally:
        (FLAT_DEVICES.add if before else FLAT_DEVICES.discard)(kind)


@torch.no_grad()
def panoptic_head(args: argparse.Namespace, report: Report) -> None:
    """Times UPSNet's argmax and the same on the full logit tensor, with peak memory."""
    size, num = ((128, 256), 5) if args.quick else ((1024, 2048), 100)
    sem_seg, instances = scene_with_things(size, num)
    sem_seg = type(sem_seg)(sem_seg.logits.to(args.device), size, size, size)
    functions = [partial(f, sem_seg, instances.to(args.device)) for f in (running_argmax, full_tensor_argmax)]
    ours, full = seconds(functions, 3, args.device)
    memory = [peak_bytes(function, args.device) / 2**20 for function in functions]
    same = torch.equal(functions[0]()[0], functions[1]()[0])
    report(
        f"UPSNet's argmax, {num} instances; peer: full tensor", ours=ms(ours), peer=ms(full), ratio=full / ours,
        note=f"{memory[0]:.0f} against {memory[1]:.0f} MiB" + ("" if same else ", MAPS DIFFER"),
    )  # fmt: skip


def deformable_convolution(args: argparse.Namespace, report: Report) -> None:
    """Times forward and backward of deformable convolution against torchvision and detectron2."""
    shape = (1, 8, 8, 12) if args.quick else (2, 256, 128, 256)
    num, channels, height, width = shape
    x = torch.randn(shape, device=args.device, requires_grad=True)
    offset = torch.randn(num, 18, height, width, device=args.device, requires_grad=True)
    weight = torch.randn(channels, channels, 3, 3, device=args.device, requires_grad=True)
    functions = {
        "ours": lambda: deform_conv2d(x, offset, weight, padding=1),
        "torchvision": lambda: torchvision.ops.deform_conv2d(x, offset, weight, padding=1),
    }
    try:
        from detectron2 import _C  # noqa: F401
        from detectron2.layers.deform_conv import deform_conv

        functions["detectron2"] = lambda: deform_conv(x, offset, weight, 1, 1, 1)
    except ImportError:
        pass  # the wheel without compiled operators
    steps = [lambda f=f: f().sum().backward() for f in functions.values()]
    times = dict(zip(functions, seconds(steps, 5, args.device), strict=True))
    for name in list(functions)[1:]:
        report(
            f"deformable convolution {shape}, forward and backward; peer: {name}", ours=ms(times["ours"]),
            peer=ms(times[name]), ratio=times[name] / times["ours"],
        )  # fmt: skip


def system(name: str, args: argparse.Namespace, report: Report) -> None:
    """Times inference and training steps of a system and of detectron2's Panoptic FPN, with peak memory."""
    size, num_images = ((64, 96), 1) if args.quick else ((512, 1024), 2)
    networks = {"ours": our_network(name, args), PEER: detectron2_network(args)}
    batch = [example(seed, size) for seed in range(num_images)]
    batches = {"ours": [e[0] for e in batch], PEER: [e[1] for e in batch]}
    for precision in ("fp32",) if args.quick else ("fp32", "AMP", "AMP, channels_last"):
        if "channels_last" in precision:
            networks = {key: net.to(memory_format=torch.channels_last) for key, net in networks.items()}
        for kind, function in (("inference", infer), ("training step", train_step)):
            steps = [partial(function, networks[k], batches[k], "AMP" in precision, args) for k in networks]
            ours, theirs = seconds(steps, 1 if args.quick else 5, args.device)
            memory = [peak_bytes(step, args.device) / 2**20 for step in steps] if args.device != "cpu" else []
            report(
                f"{name}, {kind}, {precision}, {num_images}x{size[0]}x{size[1]}", ours=ms(ours), peer=ms(theirs),
                ratio=theirs / ours,
                note=" against ".join(f"{mib:.0f} MiB" for mib in memory),
            )  # fmt: skip


def our_network(name: str, args: argparse.Namespace) -> nn.Module:
    """Builds a system with random weights and the class counts of Cityscapes."""
    path = f"toy/{name}_r18.yaml" if args.quick else f"cityscapes/{name}_r50.yaml"
    cfg = read_config(config_file(path), ["MODEL.DEVICE", args.device, "MODEL.WEIGHTS", ""])
    cfg.DATASETS.REGISTER, cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = [], [], []
    cfg.MODEL.CATEGORIES = [
        {"id": i, "name": f"class {i}", "isthing": int(i < NUM_THINGS), "color": [0, 0, i]}
        for i in range(NUM_STUFF + NUM_THINGS)
    ]
    cfg.MODEL.PANOPTIC_FUSION.OUTPUTS = ["panoptic_seg"]
    cfg.MODEL.PANOPTIC_FUSION.INSTANCES_CONFIDENCE_THRESH = 0.0
    return seeded(cfg)


def detectron2_network(args: argparse.Namespace) -> nn.Module:
    """Builds detectron2's Panoptic FPN with random weights and the same class counts."""
    cfg = get_cfg()
    configs = Path(detectron2.__file__).parent / "model_zoo" / "configs"
    cfg.merge_from_file(str(configs / "COCO-PanopticSegmentation" / "panoptic_fpn_R_50_3x.yaml"))
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = args.device, ""
    if args.quick:
        cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS, cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 18, 64, 64
        cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 32
    cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = NUM_THINGS, NUM_STUFF + 1
    cfg.MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH = 0.0
    return seeded(cfg)


def seeded(cfg: CfgNode) -> nn.Module:
    """Builds a network that returns instances of any score."""
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    torch.manual_seed(0)
    return build_model(cfg)


def example(seed: int, size: tuple[int, int], num_things: int = 15) -> tuple[dict, dict]:
    """Returns a random training example of boxes as masks, for our networks and for detectron2's."""
    rng = np.random.default_rng(seed)
    height, width = size
    masks = torch.zeros(num_things, height, width, dtype=torch.bool)
    corners = rng.integers(0, [width // 2, height // 2], (num_things, 2))
    sides = rng.integers(8, [width // 2, height // 2], (num_things, 2))
    for mask, (x, y), (w, h) in zip(masks, corners.tolist(), sides.tolist(), strict=True):
        mask[y : y + h, x : x + w] = True
    instances = Instances(size, gt_masks=BitMasks(masks))
    instances.gt_boxes = Boxes(torch.from_numpy(np.concatenate([corners, corners + sides], 1)).float())
    instances.gt_classes = torch.from_numpy(rng.integers(0, NUM_THINGS, num_things))
    stuff = torch.from_numpy(rng.integers(0, NUM_STUFF, (height // 32, width // 32))).repeat_interleave(32, 0)
    stuff, is_thing = stuff.repeat_interleave(32, 1), masks.any(0)
    image = torch.from_numpy(rng.integers(0, 256, (3, height, width), dtype=np.uint8))
    common = {"image": image, "instances": instances, "height": height, "width": width}
    things = NUM_STUFF + instances.gt_classes[masks.int().argmax(0)]
    ours = {**common, "sem_seg": torch.where(is_thing, things, stuff)}
    return ours, {**common, "sem_seg": torch.where(is_thing, 0, stuff + 1)}


@torch.no_grad()
def infer(network: nn.Module, batch: list[dict], amp: bool, args: argparse.Namespace) -> None:
    """Runs inference."""
    network.eval()
    with precision_of(amp, args):
        network([{key: example[key] for key in ("image", "height", "width")} for example in batch])


def train_step(network: nn.Module, batch: list[dict], amp: bool, args: argparse.Namespace) -> None:
    """Runs forward and backward; the same proposals are sampled each time."""
    network.train()
    torch.manual_seed(0)
    network.zero_grad(set_to_none=True)
    with EventStorage(), precision_of(amp, args):
        loss = sum(network(batch).values())
    loss.backward()


def precision_of(amp: bool, args: argparse.Namespace) -> torch.autocast:
    """Returns the context of mixed precision, which does nothing without `amp`."""
    kind = torch.device(args.device).type
    return torch.autocast(kind, dtype=torch.float16 if kind == "cuda" else torch.bfloat16, enabled=amp)


def in_place_abn(args: argparse.Namespace, report: Report) -> None:
    """Measures the bytes that InPlaceABN saves, and the step time, against torch's norms."""
    x = torch.randn((2, 3, 32, 32) if args.quick else (2, 3, 512, 1024), device=args.device)
    results = {name: measure(norm, x) for name, norm in NORMS.items()}
    (_, ours), *others = results.items()
    for name, result in others:
        key = "peak" if "peak" in ours else "saved"
        report(
            f"ResNet-50, {key} memory of a step with InPlaceABN; peer: {name}", ours=f"{ours[key]:.1f} MiB",
            peer=f"{result[key]:.1f} MiB", ratio=result[key] / ours[key],
            note=f"saved {ours['saved']:.1f} against {result['saved']:.1f} MiB, "
            f"step {ours['seconds'] * 1e3:.0f} against {result['seconds'] * 1e3:.0f} ms",
        )  # fmt: skip


def training_run(name: str, args: argparse.Namespace, report: Report) -> None:
    """Trains a system on toy scenes and reports its PQ."""
    folder = Path(args.output).resolve() / f"train_{name}"
    num_train, num_val = (2, 1) if args.quick else (60, 20)
    size = (96, 128) if args.quick else (128, 192)
    data = generate_toy_scenes(folder / "scenes", num_train=num_train, num_val=num_val, size=size)
    settings = {
        "MODEL.DEVICE": args.device,
        "DATASETS.REGISTER": [{"name": f"gpu_{split}", **files} for split, files in data.items()],
        "DATASETS.TRAIN": ("gpu_train",),
        "DATASETS.TEST": ("gpu_val",),
        "SOLVER.MAX_ITER": 2 if args.quick else 300,
        "SOLVER.IMS_PER_BATCH": 1 if args.quick else 8,
        "DATALOADER.NUM_WORKERS": 0 if args.quick else 4,
        "OUTPUT_DIR": str(folder / "output"),
    }
    opts = [str(text) for pair in settings.items() for text in pair]
    start = time.perf_counter()
    output = train(f"toy/{name}_r18.yaml", opts)
    took = time.perf_counter() - start
    results = json.loads((output / "results.json").read_text())
    report(
        f"training run of {name}, {settings['SOLVER.MAX_ITER']} iterations on toy scenes", ours=f"{took:.1f} s",
        note=f"PQ {results['panoptic_seg']['PQ']:.1f}",
    )  # fmt: skip


PARTS: dict[str, tuple[Callable[[argparse.Namespace, Report], None], float]] = {
    "cuda tests": (cuda_tests, 100),
    "fusion": (fusions, 45),
    "panoptic head": (panoptic_head, 20),
    "deformable convolution": (deformable_convolution, 20),
    **{name: (partial(system, name), 32) for name in SYSTEMS},
    "InPlaceABN": (in_place_abn, 25),
    **{f"training run of {name}": (partial(training_run, name), 60) for name in ("upsnet", "seamless")},
}
"""{name: function, seconds after which it is stopped}."""

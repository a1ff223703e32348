"""Peak memory and time of multi-scale and flip testing (TEST.AUG), compared with one pass at its largest scale.

    python benchmarks/test_time_augmentation.py [--size 1024] [--scales 0.5 0.75 1.0] [--threads 1]

Each row is measured in a separate process: the baseline on EfficientNet-Lite0 of configs/camvid, random weights, a
random image of size x 1.5 size pixels. "above the start" is the peak memory (ru_maxrss) minus its value after the
network was built. The accumulators of the semantic probabilities (C + 1 float32 maps at output size) are listed
separately. glibc is configured to return freed memory at once; by default it keeps fragments, which adds about half of
one pass.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time

# The parent imports no torch: a child's ru_maxrss starts from what its parent had.
from arguments import parse_arguments

RETURN_FREED_MEMORY = {"MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_MMAP_THRESHOLD_": "65536"}
CONFIG = "camvid/panoptic_fpn_lite0.yaml"
CATEGORIES = [{"id": i + 1, "name": f"class {i}", "isthing": int(i < 8)} for i in range(19)]


def measure(size: int, scales: list[float], augmented: bool, threads: int) -> dict[str, float]:
    """Runs one image through the network; returns MiB above the start and seconds."""
    import torch
    from detectron2.modeling import build_model

    from panoptic_fusion import config_file, get_cfg, resolve_config

    torch.set_num_threads(threads)
    cfg = get_cfg()
    cfg.merge_from_file(config_file(CONFIG))
    cfg.DATASETS.REGISTER, cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = [], [], ["none"]
    cfg.MODEL.CATEGORIES, cfg.MODEL.DEVICE, cfg.MODEL.TIMM.WEIGHTS = CATEGORIES, "cpu", ""
    cfg.MODEL.PANOPTIC_FUSION.OUTPUTS = ["panoptic_seg"]
    cfg.TEST.AUG.ENABLED = augmented
    cfg.TEST.AUG.MIN_SIZES = tuple(round(size * scale) for scale in scales)
    torch.manual_seed(0)
    model = build_model(resolve_config(cfg)).eval()
    image = torch.randint(0, 256, (3, size, size * 3 // 2), dtype=torch.uint8)
    with torch.no_grad():
        views, model.augmentation = model.augmentation, None
        model([{"image": image[:, :64, :96]}])  # what is loaded at the first call
        model.augmentation = views
        start, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
        model([{"image": image}])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"mib": (peak - start) / 1024, "seconds": time.perf_counter() - begin}


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024, help="short side of the image in pixels")
    parser.add_argument("--scales", type=float, nargs="+", default=[0.5, 0.75, 1.0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--child", choices=("plain", "augmented"), help=argparse.SUPPRESS)
    args = parse_arguments(parser, size=96)
    if args.child:
        print(json.dumps(measure(args.size, args.scales, args.child == "augmented", args.threads)))
        return
    rows = {}
    for name in ("plain", "augmented"):
        command = [sys.executable, __file__, "--child", name, "--size", str(args.size), "--threads", str(args.threads)]
        command += ["--scales", *map(str, args.scales)]
        environment = {**os.environ, **RETURN_FREED_MEMORY}
        output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        rows[name] = json.loads(output.stdout.splitlines()[-1])
        print(f"{name:10} {rows[name]['mib']:8.1f} MiB above the start {rows[name]['seconds']:8.2f} s", flush=True)
    accumulators = (len(CATEGORIES) + 1) * args.size * (args.size * 3 // 2) * 4 / 2**20
    ratio = (rows["augmented"]["mib"] - accumulators) / rows["plain"]["mib"]
    print(f"accumulators {accumulators:.1f} MiB; memory without them {ratio:.2f}x the memory of one pass")


if __name__ == "__main__":
    main()

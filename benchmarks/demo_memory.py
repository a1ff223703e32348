"""Peak memory of `panoptic-fusion demo` per pixel of a large image.

    python benchmarks/demo_memory.py [--side 5000] [--limit 35]

Each row is measured in a separate process: the baseline of configs/toy with random weights segments one square PNG. The
bytes per pixel are the peak memory (ru_maxrss) minus the peak for a PNG of 100 x 100 pixels, divided by the number of
pixels. The exit code is 1 if they exceed the limit, which comes from the project's issue 18.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

# The parent imports no torch: a child's ru_maxrss starts from what its parent had.
from arguments import parse_arguments

CATEGORIES = [{"id": i + 1, "name": f"class {i}", "isthing": int(i < 3), "color": [i, 9 * i, 200]} for i in range(12)]


def segment_one(side: int) -> float:
    """Segments one PNG of side x side pixels; returns the peak memory of the process in MiB."""
    import cv2
    import numpy as np
    import torch
    from detectron2.modeling import build_model

    from panoptic_fusion import config_file, demo, get_cfg, resolve_config

    with tempfile.TemporaryDirectory() as folder:
        model, photo = Path(folder, "model"), Path(folder, "in", "photo.png")
        for each in (model, photo.parent):
            each.mkdir()
        cv2.imwrite(str(photo), np.full((side, side, 3), 90, np.uint8))
        cfg = get_cfg()
        cfg.merge_from_file(config_file("toy/panoptic_fpn_r18.yaml"))
        cfg.DATASETS.REGISTER, cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = [], [], ["none"]
        cfg.MODEL.CATEGORIES, cfg.MODEL.DEVICE = CATEGORIES, "cpu"
        cfg = resolve_config(cfg)
        torch.save({"model": build_model(cfg).state_dict()}, model / "model_final.pth")
        (model / "config.yaml").write_text(cfg.dump())
        written = demo(str(model), inputs=[photo], output=Path(folder, "out"))
        if written["unreadable"]:
            raise RuntimeError(written["unreadable"][0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=5000, help="of the image in pixels")
    parser.add_argument("--limit", type=float, default=35, help="bytes per pixel")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parse_arguments(parser, side=600, limit=1e9)
    if args.child:
        print(segment_one(args.side))
        return
    peaks = []
    for side in (100, args.side):
        command = [sys.executable, __file__, "--child", "--side", str(side)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks.append(float(done.stdout.splitlines()[-1]))
        print(f"{side:5} x {side:<5} {peaks[-1]:8.0f} MiB", flush=True)
    each = (peaks[1] - peaks[0]) * 2**20 / args.side**2
    print(f"{each:.1f} bytes per pixel, limit {args.limit:g}")
    sys.exit(int(each > args.limit))


if __name__ == "__main__":
    main()

"""Peak memory of `panoptic-fusion demo` per pixel of a large image, or over the frames of a video.

    python benchmarks/demo_memory.py [--side 5000] [--limit 35]
    python benchmarks/demo_memory.py --frames 200 [--side 640]

Each row is measured in a separate process: the baseline of configs/toy with random weights segments one square PNG, or
a square video of noise with all outputs (--video, --cutouts, --instances-json). The bytes per pixel are the peak memory
(ru_maxrss) minus the peak for a PNG of 100 x 100 pixels, divided by the number of pixels. The exit code is 1 if they
exceed the limit, which comes from the project's issue 18. For a video, the figure is the peak memory minus the peak for
its first SHORT frames.
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

SHORT = 20  # frames of the video that a longer one is compared with

CATEGORIES = [{"id": i + 1, "name": f"class {i}", "isthing": int(i < 3), "color": [i, 9 * i, 200]} for i in range(12)]


def segment_one(side: int, frames: int) -> float:
    """Segments a PNG of side x side pixels, or a video of `frames` frames; returns the process's peak memory in MiB."""
    import torch
    from detectron2.modeling import build_model

    from panoptic_fusion import config_file, demo, get_cfg, resolve_config

    with tempfile.TemporaryDirectory() as folder:
        model, photos = Path(folder, "model"), Path(folder, "in")
        for each in (model, photos):
            each.mkdir()
        source = write_video(photos / "video.avi", side, frames) if frames else write_photo(photos / "photo.png", side)
        cfg = get_cfg()
        cfg.merge_from_file(config_file("toy/panoptic_fpn_r18.yaml"))
        cfg.DATASETS.REGISTER, cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = [], [], ["none"]
        cfg.MODEL.CATEGORIES, cfg.MODEL.DEVICE = CATEGORIES, "cpu"
        cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = cfg.MODEL.PANOPTIC_FUSION.INSTANCES_CONFIDENCE_THRESH = 0.0
        cfg = resolve_config(cfg)
        torch.save({"model": build_model(cfg).state_dict()}, model / "model_final.pth")
        (model / "config.yaml").write_text(cfg.dump())
        every = {"video": True, "cutouts": True, "instances_json": True} if frames else {}
        written = demo(str(model), inputs=[source], output=Path(folder, "out"), **every)
        if written["unreadable"]:
            raise RuntimeError(written["unreadable"][0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write_photo(path: Path, side: int) -> Path:
    """Writes a gray PNG and returns its path."""
    import cv2
    import numpy as np

    cv2.imwrite(str(path), np.full((side, side, 3), 90, np.uint8))
    return path


def write_video(path: Path, side: int, frames: int) -> Path:
    """Writes a video of smooth noise and returns its path."""
    import cv2
    import numpy as np

    rng = np.random.default_rng(0)
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (side, side))
    for _ in range(frames):
        video.write(cv2.resize(rng.integers(0, 256, (20, 20, 3), np.uint8), (side, side)))
    video.release()
    return path


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, help="of the image or video in pixels (default: 5000, for a video 640)")
    parser.add_argument("--frames", type=int, default=0, help="of a video, instead of an image")
    parser.add_argument("--limit", type=float, default=35, help="bytes per pixel of an image")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parse_arguments(parser, side=600, limit=1e9)
    side = args.side or (640 if args.frames else 5000)
    if args.child:
        print(segment_one(side, args.frames))
        return
    peaks = []
    for each, frames in ((side, SHORT), (side, args.frames)) if args.frames else ((100, 0), (side, 0)):
        command = [sys.executable, __file__, "--child", "--side", str(each), "--frames", str(frames)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks.append(float(done.stdout.splitlines()[-1]))
        print(f"{each:5} x {each:<5} {f'{frames:5} frames' if frames else ''} {peaks[-1]:8.0f} MiB", flush=True)
    more = peaks[1] - peaks[0]
    if args.frames:
        print(f"{more:.1f} MiB more for {args.frames} frames than for {SHORT}")
        return
    each = more * 2**20 / side**2
    print(f"{each:.1f} bytes per pixel, limit {args.limit:g}")
    sys.exit(int(each > args.limit))


if __name__ == "__main__":
    main()

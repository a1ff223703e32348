#!/usr/bin/env python
"""Measures `panoptic-fusion import`: time per image and peak memory of the process tree, for folders of several sizes.

    python benchmarks/import_speed.py --images 100 500 --polygons 15 --size 720 1280 --workers 2

Writes labelme and COCO annotations of random polygons (40 points each) below a temporary folder.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from PIL import Image

from panoptic_fusion.data.importers.masks import ellipse_ring

LABELS = ("car", "person", "road", "sky", "tree")


def main() -> None:
    """Entry point of the command-line tool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[100, 500])
    parser.add_argument("--polygons", type=int, default=15)
    parser.add_argument("--size", type=int, nargs=2, default=(720, 1280), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: only shows that everything runs")
    args = parser.parse_args()
    if args.quick:
        args.images, args.polygons, args.size = [2], 3, (128, 192)
    print("format    images  seconds  s/image  peak MiB  minutes for 5,000")
    for kind, write in (("labelme", write_labelme), ("coco", write_coco)):
        for count in args.images:
            with tempfile.TemporaryDirectory() as folder:
                write(Path(folder, "in"), count, args.polygons, tuple(args.size))
                seconds, peak = measure(Path(folder), args.workers)
            each = seconds / count
            print(f"{kind:8} {count:7} {seconds:8.1f} {each:8.4f} {peak:9.0f} {each * 5000 / 60:18.1f}", flush=True)


def measure(folder: Path, workers: int) -> tuple[float, float]:
    """Imports a folder in separate processes; returns the seconds and their peak memory in MiB."""
    command = [sys.executable, "-m", "panoptic_fusion", "import", str(folder / "in"), "--output", str(folder / "out")]
    start = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--workers", str(workers)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    peak = [0.0]

    def watch() -> None:
        while process.poll() is None:
            peak[0] = max(peak[0], tree_memory(process.pid))
            time.sleep(0.1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    if process.wait():
        raise SystemExit(f"the import failed with exit code {process.returncode}")
    watcher.join()
    return time.perf_counter() - start, peak[0]


def tree_memory(pid: int) -> float:
    """Returns the memory of a process and its children in MiB; shared pages count proportionally (Linux)."""
    total = 0.0
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    total += next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0)
    return total + sum(tree_memory(int(child)) for child in children)


def polygons(rng: np.random.Generator, count: int, size: tuple[int, int]) -> list[tuple[str, np.ndarray]]:
    """Returns random ellipses with a rough outline, 40 points each."""
    height, width = size
    found = []
    for _ in range(count):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        ring = ellipse_ring(0, 0, rng.uniform(20, width / 4), rng.uniform(20, height / 4))[::6][:40]
        ring = ring * rng.uniform(0.8, 1.2, (len(ring), 1)) + (x, y)
        found.append((LABELS[int(rng.integers(len(LABELS)))], ring.round(2)))
    return found


def write_image(path: Path, rng: np.random.Generator, size: tuple[int, int]) -> None:
    """Writes one of a few noise images, with the file size of a photo of its size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = rng.integers(0, 256, (size[0] // 8, size[1] // 8, 3), dtype=np.uint8)
    Image.fromarray(noise).resize(size[::-1]).save(path)


def write_labelme(folder: Path, count: int, number: int, size: tuple[int, int]) -> None:
    """Writes a folder of labelme annotations."""
    for index in range(count):
        rng = np.random.default_rng(index)
        write_image(folder / f"{index}.jpg", rng, size)
        shapes = [{"label": n, "points": p.tolist(), "shape_type": "polygon"} for n, p in polygons(rng, number, size)]
        content = {"shapes": shapes, "imagePath": f"{index}.jpg", "imageHeight": size[0], "imageWidth": size[1]}
        (folder / f"{index}.json").write_text(json.dumps(content))


def write_coco(folder: Path, count: int, number: int, size: tuple[int, int]) -> None:
    """Writes a COCO instances JSON."""
    images, annotations = [], []
    for index in range(count):
        rng = np.random.default_rng(index)
        write_image(folder / "images" / f"{index}.jpg", rng, size)
        images.append({"id": index, "file_name": f"{index}.jpg", "height": size[0], "width": size[1]})
        for name, ring in polygons(rng, number, size):
            entry = {"id": len(annotations), "image_id": index, "category_id": LABELS.index(name)}
            annotations.append({**entry, "segmentation": [ring.ravel().tolist()]})
    categories = [{"id": k, "name": name} for k, name in enumerate(LABELS)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(content))


if __name__ == "__main__":
    main()

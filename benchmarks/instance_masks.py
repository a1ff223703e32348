"""Times the training instances of an image whose masks come from an instances JSON: decoded, resized, flipped.

    python benchmarks/instance_masks.py [--size 1024 2048] [--instances 40] [--repeats 7]

The masks are ellipses in COCO's run-length encoding. The same steps with masks in the column order that pycocotools
returns, as in detectron2's mapper, alternate with ours in one process. Both results are compared.
"""

import argparse
import statistics
import time

import cv2
import numpy as np
import torch
from arguments import parse_arguments
from detectron2.data import transforms as T
from pycocotools import mask as mask_api

from panoptic_fusion.data.mapper import instances_of_annotations


def ellipses(size: tuple[int, int], number: int) -> list[dict]:
    """Returns annotations of random ellipses."""
    rng = np.random.default_rng(0)
    annotations = []
    for _ in range(number):
        mask = np.zeros(size, np.uint8)
        center = tuple(int(v) for v in rng.integers(0, size[::-1]))
        axes = tuple(int(v) for v in rng.integers(4, max(5, size[0] // 5), 2))
        cv2.ellipse(mask, center, axes, 0, 0, 360, 1, -1)
        rle = mask_api.encode(np.asfortranarray(mask))
        annotations.append({"segmentation": rle, "iscrowd": 0, "category_id": 0})
    return annotations


def in_column_order(annotations: list[dict], transforms: T.TransformList) -> torch.Tensor:
    """Returns the non-empty transformed masks (M, h, w) bool."""
    masks = [transforms.apply_segmentation(mask_api.decode(each["segmentation"])) for each in annotations]
    found = []
    for mask in masks:
        columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
        if len(rows):
            found.append((mask.astype(bool), (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)))
    return torch.from_numpy(np.stack([mask for mask, _ in found]))


def main() -> int:
    """Entry point of the command-line tool."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048), help="height and width")
    parser.add_argument("--instances", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=7)
    args = parse_arguments(parser, size=(64, 96), instances=5, repeats=1)
    cv2.setNumThreads(1)
    size = tuple(args.size)
    small = tuple(side * 4 // 5 for side in size)
    transforms = T.TransformList([T.ResizeTransform(*size, *small), T.HFlipTransform(small[1])])
    annotations = ellipses(size, args.instances)
    ours = lambda: instances_of_annotations(annotations, size, transforms, small).gt_masks.tensor  # noqa: E731
    theirs = lambda: in_column_order(annotations, transforms)  # noqa: E731
    same = torch.equal(ours(), theirs())
    times = {ours: [], theirs: []}
    for _ in range(args.repeats):
        for function, row in times.items():
            start = time.process_time()
            function()
            row.append(1e3 * (time.process_time() - start))
    ours_ms, theirs_ms = (statistics.median(row) for row in times.values())
    print(f"{size[0]}x{size[1]}, {args.instances} instances, identical: {'yes' if same else 'NO'}\n")
    print("| masks | CPU ms per image | ratio |\n|---|---|---|")
    print(f"| column order | {theirs_ms:.1f} | |\n| ours | {ours_ms:.1f} | {theirs_ms / ours_ms:.2f} |")
    return int(not same)


if __name__ == "__main__":
    raise SystemExit(main())

#!/usr/bin/env python
"""Prepares Cityscapes, Mapillary Vistas, IDD or COCO for training: COCO panoptic json and PNGs from the download.

It can be stopped at any moment and run again; it goes on where it was.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from panoptic_fusion.data.datasets import BUILTIN, datasets_root  # noqa: E402
from panoptic_fusion.data.prepare import prepare  # noqa: E402
from panoptic_fusion.errors import run_cli  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", choices=sorted(BUILTIN))
    parser.add_argument("root", nargs="?", help="the data set's folder (default: $DETECTRON2_DATASETS/<dataset>)")
    parser.add_argument("--splits", nargs="+", metavar="SPLIT", help="default: those of train and val that are there")
    parser.add_argument("--workers", type=int, help="processes (default: one a core)")
    parser.add_argument("--force", action="store_true", help="do all again, also what earlier runs have finished")
    args = parser.parse_args()
    root = args.root or os.path.join(datasets_root(), args.dataset)
    for summary in prepare(args.dataset, root, args.splits, args.workers, args.force):
        print(summary)


if __name__ == "__main__":
    run_cli(main)

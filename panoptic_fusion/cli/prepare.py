"""Prepares a dataset for training: COCO panoptic JSON and PNGs from the official download, or drawn toy scenes.

    panoptic-fusion prepare toy [--output datasets/toy]
    panoptic-fusion prepare cityscapes [ROOT] [--splits train val]

The command can be interrupted at any time and run again; finished work is not repeated.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from panoptic_fusion.data.prepare import SplitSummary

HELP = "make a dataset ready for training, from its download or as toy scenes"

# Display name of each dataset key in panoptic_fusion.data.datasets.BUILTIN.
PUBLIC = {
    "cityscapes": "Cityscapes",
    "coco": "COCO",
    "idd": "IDD",
    "vistas": "Mapillary Vistas",
    "vistas_v2": "Mapillary Vistas 2.0",
    "camvid": "CamVid",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds one subcommand per dataset."""
    data_sets = parser.add_subparsers(dest="dataset", required=True, metavar="DATASET")
    toy = data_sets.add_parser("toy", help="small drawn street scenes, 400 for training and 100 for validation")
    toy.add_argument(
        "--output", default="datasets/toy",
        help="folder to make, default: %(default)s; toy scenes in it of other parameters are replaced",
    )  # fmt: skip
    toy.add_argument("--num-train", type=int, default=400, help="images for training, default: %(default)s")
    toy.add_argument("--num-val", type=int, default=100, help="images for validation, default: %(default)s")
    toy.add_argument("--seed", type=int, default=0, help="equal seeds draw equal scenes, default: %(default)s")
    toy.add_argument(
        "--size", type=int, nargs=2, default=(128, 192), metavar=("HEIGHT", "WIDTH"), help="in pixels, default: 128 192"
    )
    toy.add_argument(
        "--depth", default="by-class", metavar="by-class|class-free",
        help="whether the classes of overlapping things tell which one is in front, default: %(default)s",
    )  # fmt: skip
    for key, name in PUBLIC.items():
        public = data_sets.add_parser(key, help=f"{name}, from its download")
        public.add_argument("root", nargs="?", help=f"the dataset's folder (default: $DETECTRON2_DATASETS/{key})")
        public.add_argument("--splits", nargs="+", metavar="SPLIT", help="default: train and val, if they exist")
        public.add_argument("--workers", type=int, help="processes (default: one per core)")
        public.add_argument("--force", action="store_true", help="start from scratch: keep nothing of earlier runs")


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    if args.dataset == "toy":
        numbers = {"num_train": args.num_train, "num_val": args.num_val, "seed": args.seed}
        for name, paths in prepare_toy(args.output, **numbers, size=tuple(args.size), depth=args.depth).items():
            print(f"{name}: {paths['panoptic_json']}, images in {paths['images']}")
        return
    for summary in prepare(args.dataset, args.root, splits=args.splits, workers=args.workers, force=args.force):
        print(summary)


def prepare(
    dataset: str,
    root: str | os.PathLike | None = None,
    *,
    splits: Sequence[str] | None = None,
    workers: int | None = None,
    force: bool = False,
) -> list[SplitSummary]:
    """Prepares a public dataset and summarizes it; a progress bar shows the time left.

    Args:
        dataset: cityscapes, coco, idd or vistas.
        root: folder of the dataset; default: $DETECTRON2_DATASETS/<dataset>.
        splits, workers, force: see `panoptic_fusion.data.prepare.prepare`, which also lists the errors.

    Returns:
        One summary per split.
    """
    from panoptic_fusion.data import prepare as converters
    from panoptic_fusion.data.datasets import datasets_root

    root = root or os.path.join(datasets_root(), dataset)
    return converters.prepare(dataset, root, splits, workers, force)


def prepare_toy(
    output: str | os.PathLike = "datasets/toy",
    *,
    num_train: int = 400,
    num_val: int = 100,
    seed: int = 0,
    size: tuple[int, int] = (128, 192),
    depth: str = "by-class",
) -> dict[str, dict[str, str]]:
    """Draws toy scenes, or reuses those in `output`; see `panoptic_fusion.data.toy.scenes.generate_toy_scenes`."""
    from panoptic_fusion.data.toy.scenes import generate_toy_scenes

    return generate_toy_scenes(output, num_train=num_train, num_val=num_val, seed=seed, size=size, depth=depth)

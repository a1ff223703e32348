"""Fuses the result files of an instance model and a semantic model, of any kind, into COCO panoptic files.

    panoptic-fusion fuse --instances INSTANCES.json --semantic SEMANTIC --images IMAGES.json --output OUT

SEMANTIC is a COCO result JSON, or a folder of PNGs of category ids or of .npy logits. If the command is interrupted,
run it again; finished images are kept.

Exit code 0: everything was fused; 1: some entries or images were left out (they are listed); 2: an error ended the run.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from panoptic_fusion.errors import counted

from .arguments import check_at_least_one

HELP = "fuse the result files of any instance model and any semantic model"
RULES = ("heuristic", "seamless", "mask_guided", "spatial_ranking", "upsnet")
OPTIONS = {
    "confidence_thresh": (float, "score that instances need"),
    "overlap_thresh": (float, "fraction of an instance that may be covered"),
    "stuff_area_limit": (int, "pixels that a stuff segment needs"),
    "agreement_thresh": (float, "fraction of an instance that must be things in the semantic labels (mask_guided)"),
    "stuff_channels_only": (bool, "give pixels without an instance the best stuff class; needs logits"),
    "unknown": (bool, "add an unknown channel (upsnet)"),
}
SHOWN = 20  # problems that are printed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the files, the rule and its options."""
    parser.add_argument("--instances", required=True, help="COCO result JSON with masks as RLE")
    parser.add_argument("--semantic", required=True, help="COCO result JSON, or folder of label PNGs or .npy logits")
    parser.add_argument("--images", required=True, help="JSON with the list of images")
    parser.add_argument("--categories", help="JSON with the panoptic categories (default: the categories in --images)")
    parser.add_argument("--output", required=True, help="folder of the result, new or of an interrupted run")
    parser.add_argument("--rule", choices=RULES, default="heuristic", help="fusion rule (default: heuristic)")
    for name, (kind, text) in OPTIONS.items():
        how: dict[str, Any] = {"action": argparse.BooleanOptionalAction} if kind is bool else {"type": kind}
        parser.add_argument(f"--{name.replace('_', '-')}", help=f"{text} (default: the rule's own)", **how)
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")


def run(args: argparse.Namespace) -> int:
    """Runs the command line; returns the exit code."""
    check_at_least_one(args.workers, "--workers")
    given = {name: getattr(args, name) for name in OPTIONS if getattr(args, name) is not None}
    result = fuse_files(
        args.instances, args.semantic, args.images, args.output,
        categories=args.categories, rule=args.rule, processes=args.workers, **given,
    )  # fmt: skip
    problems = result["problems"]
    for problem in problems[:SHOWN]:
        print(problem, file=sys.stderr)
    if len(problems) > SHOWN:
        print(f"and {len(problems) - SHOWN} more problems", file=sys.stderr)
    path = os.path.join(args.output, "panoptic.json")
    print(f"{counted(result['images'], 'image')} fused, {counted(len(problems), 'problem')}: {path}")
    return int(bool(problems))


def fuse_files(
    instances: str | os.PathLike,
    semantic: str | os.PathLike,
    images: str | os.PathLike,
    output: str | os.PathLike,
    **options: Any,
) -> dict[str, Any]:
    """Fuses the result files of any two models.

    For arguments, result and errors see `panoptic_fusion.evaluation.fuse_files.fuse_files`.
    """
    from panoptic_fusion.evaluation import fuse_files as files

    return files.fuse_files(instances, semantic, images, output, **options)

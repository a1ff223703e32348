"""Imports the annotations of other tools as a COCO panoptic dataset for `panoptic-fusion fine-tune`.

    panoptic-fusion import PATH --output DATA [--things NAME ... | --stuff NAME ...]

The format of the files in PATH is detected; docs/importing.md lists the formats and their rules. The command can be
interrupted at any time and run again; finished items that have not changed are skipped.

Exit code 0: everything was imported; 1: some images or shapes were skipped (they are listed); 2: nothing was imported.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .arguments import check_at_least_one, escape_unencodable

if TYPE_CHECKING:
    from panoptic_fusion.data.importers import ImportResult

HELP = "turn the annotations of other tools into a COCO panoptic dataset"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the folders and the options of the import."""
    parser.add_argument("path", help="folder or file of the annotations; nothing in it is changed")
    parser.add_argument("--output", required=True, help="folder of the result, new or of an earlier import")
    parser.add_argument("--format", help="format of the files, if the recognized one is wrong")
    parser.add_argument("--things", nargs="+", metavar="NAME", help="thing classes; all others become stuff")
    parser.add_argument("--stuff", nargs="+", metavar="NAME", help="stuff classes; all others become things")
    parser.add_argument(
        "--overlaps",
        choices=("z", "annotation", "smaller-in-front"),
        help="which of two overlapping shapes wins (default: what suits the format)",
    )
    parser.add_argument("--boxes", choices=("mask", "skip"), help="paint boxes, or leave them out (default: by format)")
    parser.add_argument("--unlabeled", metavar="NAME", help="stuff class for pixels without a label (default: void)")
    parser.add_argument("--images-root", metavar="DIR", help="another folder to search for images")
    parser.add_argument("--copy-images", action="store_true", help="copy the images instead of linking them")
    parser.add_argument("--keep-missing", action="store_true", help="also import annotations without an image")
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    escape_unencodable()
    check_at_least_one(args.workers, "--workers")
    names = ("format", "things", "stuff", "boxes", "unlabeled", "images_root", "copy_images", "keep_missing", "workers")
    options = {name: getattr(args, name) for name in names}

    from panoptic_fusion.data.importers.report import format_result

    result = import_annotations(args.path, args.output, order=args.overlaps, **options, progress=True)
    print(format_result(result))
    return int(bool(result.faults))


def import_annotations(
    path: str | os.PathLike,
    output: str | os.PathLike,
    *,
    format: str | None = None,
    things: Sequence[str] | None = None,
    stuff: Sequence[str] | None = None,
    order: str | None = None,
    boxes: str | None = None,
    unlabeled: str | None = None,
    images_root: str | os.PathLike | None = None,
    copy_images: bool = False,
    keep_missing: bool = False,
    workers: int | None = None,
    progress: bool = False,
) -> ImportResult:
    """Imports annotations of any supported tool as a COCO panoptic dataset.

    See `panoptic_fusion.data.importers.import_annotations` for the arguments, the result and the errors.
    """
    from panoptic_fusion.data import importers

    options = {key: value for key, value in locals().items() if key not in ("path", "output", "importers")}
    return importers.import_annotations(path, output, **options)

"""Checks a whole COCO panoptic dataset and reports every error with the name of the file.

Exit code 0: the dataset can be used for training, possibly with warnings (`panoptic-fusion fine-tune` accepts it);
1: errors that prevent training; 2: the dataset could not be determined (unknown name, invalid config).

    panoptic-fusion check NAME                              a dataset that the project registers
    panoptic-fusion check --config-file F [NAME]            one or all datasets of the config's DATASETS.REGISTER
    panoptic-fusion check ... --output FOLDER               also writes an overview: statistics, pictures, report.html
    panoptic-fusion check --images DIR --panoptic-root DIR --panoptic-json FILE [--instances-json FILE]
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from panoptic_fusion.errors import ConfigError, UserError

from .arguments import escape_unencodable

if TYPE_CHECKING:
    from panoptic_fusion.data.checks import CheckResult
    from panoptic_fusion.data.coco_panoptic import PanopticFiles

HELP = "read a dataset and report every problem"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that select datasets."""
    parser.add_argument("name", nargs="?", help="a registered dataset")
    parser.add_argument("--config-file", help="a yaml with DATASETS.REGISTER")
    parser.add_argument("--images", help="folder of the images")
    parser.add_argument("--panoptic-root", help="folder of the PNGs")
    parser.add_argument("--panoptic-json", help="the COCO panoptic JSON")
    parser.add_argument("--instances-json", help="a COCO instances JSON of the same images")
    parser.add_argument(
        "--output", help="folder for an overview: statistics, and chosen images as pictures and in report.html"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: one per core)")


def run(args: argparse.Namespace) -> int:
    """Checks the datasets that the command line selects; returns the exit code."""
    escape_unencodable()
    paths = (args.images, args.panoptic_root, args.panoptic_json, args.instances_json)
    found = data_sets(args.name, args.config_file, *paths)

    from panoptic_fusion.data.checks import check_dataset, format_result
    from panoptic_fusion.data.coco_panoptic import missing_remedy

    if args.output is not None:
        from panoptic_fusion.evaluation.report.one_side import write_dataset_report
        from panoptic_fusion.files import check_writable
        from panoptic_fusion.visualization.overview import write_overview

        check_writable(args.output, "--output")
    trainable = True
    for name, files in found.items():
        result = check_dataset(files, args.workers, show_progress=True)
        print(format_result(name, result), flush=True)
        if not os.path.isfile(files.panoptic_json) and (remedy := missing_remedy(name, files.panoptic_json)):
            print(f"{name}: {remedy}", flush=True)
        trainable &= result.is_trainable()
        if args.output is not None:
            folder = Path(args.output, name.replace("/", "_")) if len(found) > 1 else Path(args.output)
            written = write_overview(name, files, result, folder)
            print(f"overview: {written}" if written else "overview: none, since no image could be read", flush=True)
            if written:
                print(f"Report: {write_dataset_report(name, files, result, folder, args.workers)}", flush=True)
    return int(not trainable)


def check(
    name: str | None = None,
    config_file: str | None = None,
    *,
    images: str | None = None,
    panoptic_root: str | None = None,
    panoptic_json: str | None = None,
    instances_json: str | None = None,
    workers: int | None = None,
) -> dict[str, CheckResult]:
    """Checks whole datasets, image by image.

    Args:
        name: name of a registered dataset.
        config_file: config that registers the dataset; without `name`, all datasets that it registers are checked.
        images, panoptic_root, panoptic_json, instances_json: paths as in `register_panoptic`, instead of a name.
        workers: number of processes; default: one per core.

    Returns:
        {name, or path of the JSON: content of the dataset and its errors}.

    Raises:
        UserError, FileNotFoundError: the dataset could not be determined.
    """
    found = data_sets(name, config_file, images, panoptic_root, panoptic_json, instances_json)

    from panoptic_fusion.data.checks import check_dataset

    return {key: check_dataset(files, workers) for key, files in found.items()}


def data_sets(
    name: str | None,
    config_file: str | None,
    images: str | None,
    panoptic_root: str | None,
    panoptic_json: str | None,
    instances_json: str | None,
) -> dict[str, PanopticFiles]:
    """Returns the names and files of the datasets to check; see `check` for the arguments."""
    by_path = any(path is not None for path in (images, panoptic_root, panoptic_json, instances_json))
    if by_path and (images is None or panoptic_root is None or panoptic_json is None):
        raise UserError("--images, --panoptic-root and --panoptic-json go together")
    if by_path and (name or config_file):
        raise UserError("pass either paths or a name, not both")
    if not (by_path or name or config_file):
        raise UserError("pass a name, --config-file, or --images, --panoptic-root and --panoptic-json")

    from panoptic_fusion.config import read_config
    from panoptic_fusion.data import datasets  # noqa: F401  (registers the datasets of the project)
    from panoptic_fusion.data.coco_panoptic import PanopticFiles, panoptic_files, register_from_config

    if images is not None and panoptic_root is not None and panoptic_json is not None:
        return {panoptic_json: PanopticFiles(images, panoptic_root, panoptic_json, instances_json)}
    names = []
    if config_file:
        names = register_from_config(read_config(config_file).DATASETS.REGISTER)
        if not names:
            raise ConfigError(f"{config_file} registers no dataset: its DATASETS.REGISTER is empty")
    return {each: panoptic_files(each) for each in ([name] if name else names)}

#!/usr/bin/env python
"""Reads a COCO panoptic data set through and reports every fault with the file's name.

Exit code 0: no fault (a summary is printed); 1: faults; 2: the data set could not be named (unknown name, bad config).

    python tools/check_dataset.py NAME                              a data set that the project knows
    python tools/check_dataset.py --config-file F [NAME]            one, or all, of the config's DATASETS.REGISTER
    python tools/check_dataset.py --images DIR --panoptic-root DIR --panoptic-json FILE [--instances-json FILE]
"""

import argparse
import io
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from panoptic_fusion.config.read import read_config  # noqa: E402
from panoptic_fusion.data import datasets  # noqa: E402, F401  (registers those that the project knows)
from panoptic_fusion.data.checks import check_dataset, format_result  # noqa: E402
from panoptic_fusion.data.coco_panoptic import PanopticFiles, panoptic_files, register_from_config  # noqa: E402
from panoptic_fusion.errors import ConfigError, run_cli  # noqa: E402


def main() -> int:
    """Checks the data sets that the command line names; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", help="a registered data set")
    parser.add_argument("--config-file", help="a yaml with DATASETS.REGISTER")
    parser.add_argument("--images", help="folder of the images")
    parser.add_argument("--panoptic-root", help="folder of the PNGs")
    parser.add_argument("--panoptic-json", help="the COCO panoptic json")
    parser.add_argument("--instances-json", help="a COCO instances json of the same images")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: one a core)")
    args = parser.parse_args()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file name it cannot encode must not stop the report
        sys.stdout.reconfigure(errors="backslashreplace")
    found_fault = False
    for name, files in data_sets(args, parser):
        result = check_dataset(files, args.workers, show_progress=True)
        print(format_result(name, result), flush=True)
        found_fault |= bool(result.faults)
    return int(found_fault)


def data_sets(args: argparse.Namespace, parser: argparse.ArgumentParser) -> list[tuple[str, PanopticFiles]]:
    """The names and files of the data sets to check."""
    paths = (args.images, args.panoptic_root, args.panoptic_json)
    if any(path is not None for path in (*paths, args.instances_json)):
        if any(path is None for path in paths):
            parser.error("--images, --panoptic-root and --panoptic-json go together")
        if args.name or args.config_file:
            parser.error("give either paths or a name, not both")
        return [(args.panoptic_json, PanopticFiles(*paths, args.instances_json))]
    if not args.name and not args.config_file:
        parser.error("give a name, --config-file, or --images, --panoptic-root and --panoptic-json")
    names = register_config_file(args.config_file) if args.config_file else []
    return [(name, panoptic_files(name)) for name in ([args.name] if args.name else names)]


def register_config_file(path: str) -> list[str]:
    """Registers the data sets of a config's DATASETS.REGISTER; returns their names."""
    names = register_from_config(read_config(path).DATASETS.REGISTER)
    if not names:
        raise ConfigError(f"{path} registers no data set: its DATASETS.REGISTER is empty")
    return names


if __name__ == "__main__":
    run_cli(main)

"""Trains the systems of a spec, measures their costs, and writes one page with tables, a figure and a gallery.

    panoptic-fusion leaderboard ablations/leaderboard_toy.yaml --output output/leaderboard_toy --docs docs

The spec has the format of `panoptic-fusion ablation`; finished training runs are kept. The costs (parameters,
multiply-accumulates, seconds and memory for one image of each of --sizes) are always measured again, on a validation
image, with all systems interleaved in one process. --docs receives <spec's name>.md, .png (PQ against time) and
_gallery: the same 8 validation images for all systems. OUTPUT/report compares all systems image by image
(docs/report.md). Exit code 1 if a cell of a table is empty.
"""

import argparse
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from .arguments import add_allow_download

HELP = "train systems, measure quality and cost, write one page"
SIZES = ((480, 360), (2048, 1024))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the YAML file, the folders and the options of the measurements."""
    parser.add_argument("spec", type=Path, help="a YAML file of `panoptic-fusion ablation` without `eval_of`")
    parser.add_argument("--output", type=Path, required=True, help="folder of the training runs")
    parser.add_argument("--docs", type=Path, required=True, help="folder of the page and its pictures")
    parser.add_argument("--sizes", nargs="+", type=read_size, default=SIZES, help="such as 480x360")
    parser.add_argument(
        "--repeats", type=int, default=5, help="timed images of each system and size; the median counts"
    )
    parser.add_argument("--threads", type=int, default=1, help="of torch, while the costs are measured")
    parser.add_argument("--photos", action="store_true", help="also photos and ground truth in the gallery")
    parser.add_argument("--num-gpus", type=int, default=1, help="as in `panoptic-fusion train`, for each run")
    add_allow_download(parser)


def read_size(text: str) -> tuple[int, int]:
    """Parses an image size such as 480x360 into (width, height)."""
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit() and min(int(width), int(height)) >= 32):
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT, each at least 32")
    return int(width), int(height)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns 1 if a cell of a table is empty."""
    return 0 if leaderboard(**vars(args)) else 1


def leaderboard(
    spec: str | os.PathLike,
    output: str | os.PathLike,
    docs: str | os.PathLike,
    *,
    sizes: Sequence[tuple[int, int]] = SIZES,
    repeats: int = 5,
    threads: int = 1,
    photos: bool = False,
    num_gpus: int = 1,
    allow_download: bool = False,
) -> bool:
    """Trains the systems of a spec, measures their costs, and writes one page.

    Args:
        spec: path to a YAML file of `panoptic_fusion.cli.ablation` in which all runs are trained.
        output: folder of the training runs.
        docs: folder of the page and its pictures.
        sizes: (width, height) of the timed images, each at least 32.
        repeats: number of timed images per system and size; the median is reported.
        threads: number of PyTorch threads while the costs are measured.
        photos: whether the gallery also shows the photos and the ground truth.
        num_gpus: number of processes per training run; without a GPU they run on the CPU.
        allow_download: downloads weights from any address that a config names, see `check_downloads`.

    Returns:
        Whether every cell of the tables has a value.

    Raises:
        UserError, FileNotFoundError: no page was written; the message names the problem.
    """
    from .experiments.page import Settings, make_leaderboard

    words = ["panoptic-fusion", "leaderboard", str(spec), "--output", str(output), "--docs", str(docs)]
    if tuple(sizes) != SIZES:
        words += ["--sizes", *(f"{width}x{height}" for width, height in sizes)]
    for name, value, default in (("repeats", repeats, 5), ("threads", threads, 1), ("num-gpus", num_gpus, 1)):
        words += [f"--{name}", str(value)] if value != default else []
    words += ["--photos"] if photos else []
    words += ["--allow-download"] if allow_download else []
    settings = Settings(list(sizes), repeats, threads, photos)
    return make_leaderboard(Path(spec), Path(output), Path(docs), settings, num_gpus, shlex.join(words), allow_download)

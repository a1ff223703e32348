"""Fine-tunes a model on your own data: checks it, trains, evaluates, draws pictures. What `make demo-real` runs.

    panoptic-fusion fine-tune --data FOLDER --output output/mine [--iterations 1000] [KEY VALUE ...]

FOLDER holds a COCO panoptic data set: train/{images,panoptic,panoptic.json} and val/..., or images/{train,val} and
annotations/panoptic_{train,val}{,.json}, or without a validation part images, panoptic and panoptic.json; then about
20 % of the images are set apart, always the same ones. Annotations of other tools are imported first, see
`panoptic-fusion import`. docs/your_own_data.md says more. Called again, it continues
what was interrupted.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from panoptic_fusion.errors import UserError

from . import child
from .arguments import add_allow_download, add_opts, check_at_least_one

if TYPE_CHECKING:
    from detectron2.config import CfgNode

    from panoptic_fusion.data.coco_panoptic import PanopticFiles

HELP = "fine-tune a pretrained light model on your own images"
CONFIG = "camvid/panoptic_fpn_lite0.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the data, the folder and the length of the training."""
    parser.add_argument("--data", required=True, help="folder of the data set")
    parser.add_argument("--output", required=True, help="folder for the model, the table and the pictures")
    parser.add_argument("--config-file", default=CONFIG, help="default: %(default)s")
    parser.add_argument("--iterations", type=int, help="length of the training; default: the config's")
    parser.add_argument("--val-share", type=float, default=0.2, help="share of images set apart if there is no val")
    parser.add_argument("--num-gpus", type=int, default=1, help="as in `panoptic-fusion train`")
    add_allow_download(parser)
    add_opts(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command line; the exit code of the first step that failed."""
    return fine_tune(
        args.data,
        args.output,
        config_file=args.config_file,
        iterations=args.iterations,
        val_share=args.val_share,
        num_gpus=args.num_gpus,
        opts=args.opts,
        allow_download=args.allow_download,
    )


def fine_tune(
    data: str | os.PathLike,
    output: str | os.PathLike,
    *,
    config_file: str = CONFIG,
    iterations: int | None = None,
    val_share: float = 0.2,
    num_gpus: int = 1,
    opts: Sequence[str] = (),
    allow_download: bool = False,
) -> int:
    """Checks a data set, trains on it, evaluates and draws pictures; prints what it does.

    Args:
        data: folder of the data set.
        output: folder for the model, results.json, results.md and pictures/.
        config_file: a yaml file, or the name of one of the project's configs.
        iterations: length of the training; default: the config's.
        val_share: share of the images, in (0, 1), that are set apart where the data set has no validation part.
        num_gpus: processes of the training; without a GPU they run on the CPU.
        opts: KEY, VALUE, KEY, VALUE, ... that change the config.
        allow_download: download weights from any address that the config names, see `check_downloads`.

    Returns:
        0; 1 if the data set has faults that training cannot do without; else the exit code of the training.

    Raises:
        UserError, FileNotFoundError: nothing was trained; the message names what is wrong.
    """
    check_at_least_one(iterations, "--iterations")

    from panoptic_fusion.config import read_config, resolve_config
    from panoptic_fusion.data.own_folder import registration, split_data
    from panoptic_fusion.engine.preflight import check_writable
    from panoptic_fusion.engine.same_training import check_same_data, check_same_network
    from panoptic_fusion.networks.downloads import check_downloads

    from .compare import compare

    data, output = os.fspath(data), os.fspath(output)
    cfg = read_config(config_file, opts)
    check_downloads(cfg, allow_download=allow_download)
    check_writable(output, "--output")
    say("1/4 reading the data set through")
    splits = find_or_import(data, output)
    if not has_no_grave_fault(splits):
        print("nothing was trained: correct these faults first, or leave the images at fault out of the jsons")
        return 1
    print(sizes(splits["train"], cfg))
    os.makedirs(output, exist_ok=True)
    check_same_data(output, splits, val_share)
    if "val" not in splits:
        os.makedirs(os.path.join(output, "data"), exist_ok=True)
        splits = split_data(splits["train"], os.path.join(output, "data"), val_share)
        print(f"{data} has no validation part: about {val_share:.0%} of its images, chosen by their names,")
        print(f"are set apart, see {output}/data; give a val where images of one video would be on both sides")
    entries = [registration(f"own_{split}", files) for split, files in splits.items()]
    words = ["DATASETS.REGISTER", str(entries), "DATASETS.TRAIN", "('own_train',)", "DATASETS.TEST", "('own_val',)"]
    if iterations is not None:
        period = max(1, min(cfg.SOLVER.CHECKPOINT_PERIOD, iterations // 4))
        words += ["SOLVER.MAX_ITER", str(iterations), "SOLVER.CHECKPOINT_PERIOD", str(period)]
    words += [*opts, "OUTPUT_DIR", output]
    check_same_network(output, resolve_config(read_config(config_file, words)))
    say(f"2/4 training and evaluation -> {output}")
    launcher = ["--config-file", config_file, "--resume", "--num-gpus", str(num_gpus)]
    launcher += ["--allow-download"] if allow_download else []
    code = child.run("train", *launcher, *words)
    if code:
        return code
    pictures = os.path.join(output, "pictures")
    say(f"3/4 pictures: input, ground truth, prediction -> {pictures}")
    compare(output, "own_val", pictures)
    say("4/4 results")
    print(Path(output, "results.md").read_text())
    print(f"model: {output} (try: panoptic-fusion demo --model {output} --input IMAGE --output FOLDER)")
    return 0


def find_or_import(data: str, output: str) -> dict[str, PanopticFiles]:
    """Returns the files of a data set; annotations of other tools are imported into `output`/imported first.

    Raises:
        UserError: the folder holds neither.
    """
    from panoptic_fusion.data.importers import UnknownFormat, import_annotations
    from panoptic_fusion.data.importers.report import format_result
    from panoptic_fusion.data.own_folder import find_data, holds_data

    if holds_data(data) or not os.path.exists(data):
        return find_data(data)
    imported = os.path.join(output, "imported")
    try:
        print(format_result(import_annotations(data, imported, progress=True)), flush=True)
    except UnknownFormat as error:
        try:
            return find_data(data)
        except UserError as layouts:
            raise UserError(f"{layouts}. It is not a format of `panoptic-fusion import`, either: {error}") from None
    return find_data(imported)


def has_no_grave_fault(data: dict[str, PanopticFiles]) -> bool:
    """Prints what is in the data set, or every fault; whether it can be trained."""
    from panoptic_fusion.data.checks import check_dataset, format_result, format_summary

    results = {files.panoptic_json: check_dataset(files, show_progress=True) for files in data.values()}
    for name, result in results.items():
        text = format_summary(name, result) if result.can_be_trained() else format_result(name, result)
        print(text, flush=True)
    return all(result.can_be_trained() for result in results.values())


def sizes(files: PanopticFiles, cfg: CfgNode) -> str:
    """The median size of the images and what the config makes of it."""
    from panoptic_fusion.data.coco_json import read_panoptic_json

    images = read_panoptic_json(files.panoptic_json).images.values()
    width, height = (round(median(image[key] for image in images)) for key in ("width", "height"))
    crop = cfg.INPUT.CROP
    cut = f", crops of {crop.SIZE} ({crop.TYPE}; height, width)" if crop.ENABLED else ""
    return (
        f"median image: {width} x {height}; short side in training (INPUT.MIN_SIZE_TRAIN): {cfg.INPUT.MIN_SIZE_TRAIN}"
        f"{cut}; in evaluation (INPUT.MIN_SIZE_TEST): {cfg.INPUT.MIN_SIZE_TEST}"
    )


def say(text: str) -> None:
    print(f"== {text}", flush=True)

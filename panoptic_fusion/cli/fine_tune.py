"""Fine-tunes a model on your own data: checks it, trains, evaluates, draws and reports (run by `make demo-real`).

    panoptic-fusion fine-tune --data FOLDER --output output/mine [--iterations 1000] [KEY VALUE ...]

FOLDER is a COCO panoptic dataset: train/{images,panoptic,panoptic.json} and val/..., or images/{train,val} and
annotations/panoptic_{train,val}{,.json}, or, without a validation split, images, panoptic and panoptic.json. In the
last case, about 20% of the images are held out, always the same ones. Annotations of other tools are imported first,
see `panoptic-fusion import`. See docs/your_own_data.md for details. Run the command again to continue after an
interruption. Warm-up, steps and image sizes are derived from the length of the run and from the images, and the best
checkpoint is kept (docs/fine_tuning.md). To start from a network pretrained on COCO:

    panoptic-fusion fine-tune --data FOLDER --output output/mine --config-file own/panoptic_fpn_r50_coco.yaml
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from panoptic_fusion.errors import UserError

from . import child
from .arguments import add_allow_download, add_opts, check_at_least_one

if TYPE_CHECKING:
    from detectron2.config import CfgNode

    from panoptic_fusion.data.checks import CheckResult
    from panoptic_fusion.data.coco_panoptic import PanopticFiles

HELP = "fine-tune a pretrained model on your own images"
CONFIG = "camvid/panoptic_fpn_lite0.yaml"
EVALUATED_OFTEN = 200  # runs of at least this many iterations are evaluated four times, not only at the end


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the data, the output folder and the training options."""
    parser.add_argument("--data", required=True, help="folder of the dataset")
    parser.add_argument("--output", required=True, help="folder for the model, the table and the pictures")
    parser.add_argument("--config-file", default=CONFIG, help="default: %(default)s")
    parser.add_argument("--weights", metavar="FILE", help="initial weights: a downloaded file or a checkpoint")
    parser.add_argument("--iterations", type=int, help="number of iterations; default: the config's")
    parser.add_argument(
        "--val-share", type=float, default=0.2, help="fraction of images held out if there is no val split"
    )
    parser.add_argument("--num-gpus", type=int, default=1, help="as in `panoptic-fusion train`")
    add_allow_download(parser)
    add_opts(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit code of the first step that failed."""
    return fine_tune(
        args.data,
        args.output,
        config_file=args.config_file,
        weights=args.weights,
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
    weights: str | os.PathLike | None = None,
    iterations: int | None = None,
    val_share: float = 0.2,
    num_gpus: int = 1,
    opts: Sequence[str] = (),
    allow_download: bool = False,
) -> int:
    """Checks a dataset, trains on it, evaluates, writes pictures and a report; prints its progress.

    Args:
        data: folder of the dataset.
        output: folder for the model, results.json, results.md, pictures/ and report/.
        config_file: path to a YAML file, or the name of one of the project's configs.
        weights: path to initial weights; default: MODEL.WEIGHTS of the config, which is downloaded if it is a URL. Rows
            of classes with the same names are copied (MODEL.TRANSFER).
        iterations: number of training iterations, to which the schedule is scaled; default: as in the config.
        val_share: fraction of the images, in (0, 1), that are held out if the dataset has no validation split.
        num_gpus: number of training processes; without a GPU they run on the CPU.
        opts: sequence KEY, VALUE, KEY, VALUE, ... that changes the config.
        allow_download: whether to download weights from any address in the config, see `check_downloads`.

    Returns:
        0 on success, 1 if the dataset has errors that prevent training, otherwise the exit code of the training run.

    Raises:
        UserError, FileNotFoundError: nothing was trained; the message names the problem.
    """
    check_at_least_one(iterations, "--iterations")

    from panoptic_fusion.checkpoint import named_checkpoint
    from panoptic_fusion.config import read_config, resolve_config
    from panoptic_fusion.data.custom_dataset import registration, split_data
    from panoptic_fusion.engine.initial_weights import name_match_of
    from panoptic_fusion.engine.run_compatibility import check_same_data, check_same_network
    from panoptic_fusion.files import check_writable
    from panoptic_fusion.networks.downloads import check_downloads

    from .compare import compare
    from .report import report_models

    data, output = os.fspath(data), os.fspath(output)
    if weights is not None:
        opts = ["MODEL.WEIGHTS", os.fspath(weights), *opts]
    opts = ["MODEL.TRANSFER", "names", "TEST.BEST_METRIC", "panoptic_seg/PQ", *opts]
    cfg = read_config(config_file, opts)
    check_downloads(cfg, allow_download=allow_download)
    name_match_of(cfg)
    check_writable(output, "--output")
    if named_checkpoint(output) is None:
        fetch_weights(cfg.MODEL.WEIGHTS)
    say("1/4 reading the dataset")
    splits = find_or_import(data, output)
    checked = check_splits(splits)
    if not all(result.is_trainable() for result in checked.values()):
        print("nothing was trained: fix these problems first, or remove the affected images from the JSON files")
        return 1
    settings = {
        **choose_sizes(splits["train"], cfg, opts),
        **choose_schedule(read_config(config_file), cfg.SOLVER.MAX_ITER if "SOLVER.MAX_ITER" in opts else iterations),
    }
    os.makedirs(output, exist_ok=True)
    check_same_data(output, splits, val_share)
    draw_overviews(splits, checked, Path(output, "overview"))
    if "val" not in splits:
        os.makedirs(os.path.join(output, "data"), exist_ok=True)
        splits = split_data(splits["train"], os.path.join(output, "data"), val_share)
        print(f"{data} has no validation split: about {val_share:.0%} of its images, chosen by their names,")
        print(f"are held out, see {output}/data; provide a val split if images of one video would be in both")
    entries = [registration(f"own_{split}", files) for split, files in splits.items()]
    words = ["DATASETS.REGISTER", str(entries), "DATASETS.TRAIN", "('own_train',)", "DATASETS.TEST", "('own_val',)"]
    words += [str(word) for pair in settings.items() for word in pair]
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
    print(f"best model: {output} (try: panoptic-fusion demo --model {output} --input IMAGE --output FOLDER)")
    models, folder = {Path(output).absolute().name: output}, os.path.join(output, "report")
    for written in report_models(models, folder, num_gpus=num_gpus, allow_download=allow_download):
        print(f"Report: {written['page']}")
    return 0


def find_or_import(data: str, output: str) -> dict[str, PanopticFiles]:
    """Returns the files of a dataset; annotations of other tools are first imported into `output`/imported.

    Raises:
        UserError: the folder contains neither a dataset nor annotations of a known format.
    """
    from panoptic_fusion.data.custom_dataset import find_dataset, holds_data
    from panoptic_fusion.data.importers import UnknownFormat, import_annotations
    from panoptic_fusion.data.importers.report import format_result

    if holds_data(data) or not os.path.exists(data):
        return find_dataset(data)
    imported = os.path.join(output, "imported")
    try:
        print(format_result(import_annotations(data, imported, progress=True)), flush=True)
    except UnknownFormat as error:
        try:
            return find_dataset(data)
        except UserError as layouts:
            raise UserError(f"{layouts}. It is not a format of `panoptic-fusion import`, either: {error}") from None
    return find_dataset(imported)


def check_splits(splits: Mapping[str, PanopticFiles]) -> dict[str, CheckResult]:
    """Reads each part of a dataset, prints a summary or every problem, and returns the results by part."""
    from panoptic_fusion.data.checks import check_dataset, format_result, format_summary

    results = {split: check_dataset(files, show_progress=True) for split, files in splits.items()}
    for split, result in results.items():
        name = splits[split].panoptic_json
        text = format_summary(name, result) if result.is_trainable() else format_result(name, result)
        print(text, flush=True)
    return results


def draw_overviews(splits: Mapping[str, PanopticFiles], checked: Mapping[str, CheckResult], folder: Path) -> None:
    """Writes the overview of each part of a dataset (see `write_overview`) and prints where it is."""
    from panoptic_fusion.visualization.overview import write_overview

    for split, files in splits.items():
        written = write_overview(split, files, checked[split], folder / split)
        if written:
            print(f"overview of the annotations: {written}", flush=True)


def fetch_weights(weights: str) -> None:
    """Downloads MODEL.WEIGHTS, if it is a URL, before a long job starts.

    Raises:
        UserError, FileNotFoundError: the weights cannot be downloaded, or the file does not exist.
    """
    from panoptic_fusion.checkpoint import check_weights_file
    from panoptic_fusion.checkpoint.model_zoo import URL, ZOO
    from panoptic_fusion.networks.zoo import download

    check_weights_file(weights)
    if "://" in weights:
        url = weights.partition("?")[0].replace("detectron2://", URL)
        download(url, next((model.md5_prefix for model in ZOO.values() if model.url == url), ""))


def choose_sizes(files: PanopticFiles, cfg: CfgNode, opts: Sequence[str]) -> dict[str, Any]:
    """Prints the median image size and the derived training sizes; returns their settings {KEY: value}."""
    from panoptic_fusion.config import with_values
    from panoptic_fusion.config.image_sizes import SIZE_KEYS, scaled_sizes
    from panoptic_fusion.data.coco_json import read_panoptic_json

    images = read_panoptic_json(files.panoptic_json).images.values()
    width, height = (round(median(image[key] for image in images)) for key in ("width", "height"))
    settings = {} if set(SIZE_KEYS) & set(opts) else scaled_sizes(cfg, width, height)
    now = with_values(cfg, settings).INPUT
    cut = f", crops of {now.CROP.SIZE} ({now.CROP.TYPE}; height, width)" if now.CROP.ENABLED else ""
    print(
        f"median image: {width} x {height}; short side in training (INPUT.MIN_SIZE_TRAIN): {now.MIN_SIZE_TRAIN}"
        f"{cut}; in evaluation (INPUT.MIN_SIZE_TEST): {now.MIN_SIZE_TEST}"
    )
    if settings:
        print(
            f"with these sizes, the median image has at most {cfg.INPUT.PIXEL_BUDGET} pixels (INPUT.PIXEL_BUDGET; 0 "
            f"keeps the config's short side of {cfg.INPUT.MIN_SIZE_TEST}, which is faster)"
        )
    return settings


def choose_schedule(base: CfgNode, iterations: int | None) -> dict[str, Any]:
    """Returns the schedule {KEY: value} of a run of `iterations` (None: as in the config), with its evaluations."""
    from panoptic_fusion.engine.schedule import scaled_schedule

    length = base.SOLVER.MAX_ITER if iterations is None else iterations
    settings = {} if length == base.SOLVER.MAX_ITER else scaled_schedule(base, length)
    return {
        **settings,
        "SOLVER.CHECKPOINT_PERIOD": max(1, min(base.SOLVER.CHECKPOINT_PERIOD, length // 4)),
        "TEST.EVAL_PERIOD": length // 4 if length >= EVALUATED_OFTEN else 0,
    }


def say(text: str) -> None:
    """Prints a step of the command as a headline."""
    print(f"== {text}", flush=True)

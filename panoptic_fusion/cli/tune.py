"""Finds the fusion rule and the thresholds that give a trained model, or any two models, the highest PQ on a dataset.

    panoptic-fusion tune --model output/camvid --output output/camvid/tuned [--dataset camvid_val] [KEY VALUE ...]
    panoptic-fusion tune --instances FILE --semantic FILE_OR_DIR --gt-json FILE --gt-root DIR --output DIR

The network runs once per image, or the files are decoded once. The outputs are cached in --output, so a killed run
resumes. Then all rules that the outputs can feed are fused with many thresholds. The PQ of the tuned rules is measured
on images that their thresholds were not chosen on (--folds). The command prints tables and writes tuning.md,
tuning.json, tuning.png (PQ against each threshold) and best.yaml, the best settings with the command that uses them.
Tune on validation images, not on test images. In Python, `panoptic_fusion.tune_files` tunes on files.
"""

import argparse
import os
from collections.abc import Sequence
from typing import Any

from panoptic_fusion.errors import UserError

from .arguments import add_model, add_opts, check_at_least_one, check_file_options, check_model

HELP = "find the best fusion rule and thresholds of a trained model, or of any two models"
FILES = ("instances", "semantic", "gt_json", "gt_root", "output")  # what tuning on files needs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the model and its dataset or the files, the output folder and the options of the search."""
    add_model(parser)
    parser.add_argument("--dataset", help="a dataset of the model's config; default: the first of DATASETS.TEST")
    parser.add_argument("--output", required=True, help="folder for the cached outputs and the results")
    files = parser.add_argument_group("files of any two models, in place of --model")
    files.add_argument("--instances", metavar="FILE", help="COCO result JSON with masks as RLE")
    files.add_argument("--semantic", metavar="PATH", help="COCO result JSON, or folder of label PNGs or .npy logits")
    files.add_argument("--gt-json", metavar="FILE", help="COCO panoptic JSON of the ground truth")
    files.add_argument("--gt-root", metavar="DIR", help="folder of its PNGs")
    files.add_argument("--images", metavar="FILE", help="JSON with the list of images (default: the one of --gt-json)")
    files.add_argument(
        "--categories", metavar="FILE", help="JSON with the panoptic categories (default: the ones with the images)"
    )
    parser.add_argument(
        "--rule",
        action="append",
        default=[],
        metavar="NAME",
        dest="rules",
        help="a rule to tune, next to the model's (for files: heuristic); can be given more than once; default: all "
        "that the outputs can feed",
    )
    parser.add_argument("--folds", type=int, default=5, help="parts of the images, each held out once")
    parser.add_argument("--num-images", type=int, help="only so many, evenly spread over the dataset")
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
    add_opts(parser)


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    search = {name: getattr(args, name) for name in ("output", "rules", "folds", "num_images", "workers")}
    files = {name: getattr(args, name) for name in ("instances", "semantic", "gt_json", "gt_root")}
    if any((*files.values(), args.images, args.categories)):
        others = {"model": None, "config_file": None, "dataset": None, "allow_download": False}
        check_file_options(args, "tune on", FILES, others)
        tune_files(**files, images=args.images, categories=args.categories, **search)
    else:
        options = {name: getattr(args, name) for name in ("dataset", "opts", "allow_download")}
        tune(args.model, args.config_file, **options, **search)
    with open(os.path.join(args.output, "tuning.md"), encoding="utf-8") as file:
        print(file.read())
    print(f"written to {args.output}: tuning.md, tuning.json, tuning.png, best.yaml")


def tune(
    model: str | None = None,
    config_file: str | None = None,
    *,
    output: str | os.PathLike,
    dataset: str | None = None,
    rules: Sequence[str] = (),
    folds: int = 5,
    num_images: int | None = None,
    workers: int | None = None,
    opts: Sequence[str] = (),
    allow_download: bool = False,
) -> dict[str, Any]:
    """Finds the fusion rule and thresholds with the highest PQ and writes tables, a figure and a config.

    Args:
        model: OUTPUT_DIR of a training run.
        config_file: config to use instead of `model`, for example with two networks.
        output: folder for the cached outputs of the network and for the results.
        dataset: dataset in the model's config; default: the first of DATASETS.TEST.
        rules: names of fusion rules; the model's own is always tuned. Default: all that the model can feed.
        folds: number of parts that the images are split into, at least 2. Each is held out once.
        num_images: number of images, evenly spread over the dataset; default: all.
        workers: number of processes; default: one per core.
        opts: sequence KEY, VALUE, KEY, VALUE, ... that changes the config. Keys below MODEL.PANOPTIC_FUSION are the
            settings to start from.
        allow_download: whether to download weights from any address in the config, see `check_downloads`.

    Returns:
        The content of tuning.json: "best" {KEY: value}, "command", the words of the command that uses it, "verdict",
        "choice" and "rules" with the PQ in percent before and after tuning on held-out images and their 95% confidence
        intervals.

    Raises:
        UserError, FileNotFoundError: nothing was tuned; the message names the problem.
    """
    check_model(model, config_file, "--instances FILE and the options with it")
    check_search(folds, num_images, workers)

    from panoptic_fusion.evaluation.oracle_study import check_has_parts
    from panoptic_fusion.evaluation.tuning.report import write_study
    from panoptic_fusion.evaluation.tuning.rules import check_names
    from panoptic_fusion.evaluation.tuning.study import tune_model
    from panoptic_fusion.files import check_writable
    from panoptic_fusion.locks import locked_folder
    from panoptic_fusion.networks.trained import evenly_spread, load_config, load_eval_dicts

    words = [*opts, "MODEL.PANOPTIC_FUSION.OUTPUTS", "['panoptic_seg']"]
    cfg = load_config(model, config_file, words, allow_download=allow_download)
    check_has_parts(cfg, str(model or config_file), "rules can be tuned")
    check_names(rules)
    if dataset is None and not cfg.DATASETS.TEST:
        raise UserError("DATASETS.TEST is empty: name a dataset with --dataset")
    dataset = dataset or cfg.DATASETS.TEST[0]
    records = load_eval_dicts(cfg, dataset)
    if num_images is not None:
        records = evenly_spread(records, num_images)
    if len(records) < folds:
        raise UserError(f"--folds is {folds}, but there are only {len(records)} images: use a lower number")
    check_writable(os.fspath(output), "--output")
    os.makedirs(output, exist_ok=True)
    with locked_folder(output, f"--output {os.fspath(output)}"):
        study = tune_model(cfg, records, output, names=rules, num_folds=folds, processes=workers)
        source = ["--model", str(model)] if model else ["--config-file", str(config_file)]
        settings = {"model": model or config_file, "dataset": dataset, "folds": folds}
        return write_study(study, output, ["panoptic-fusion", "evaluate", *source, *opts], settings)


def tune_files(
    instances: str | os.PathLike,
    semantic: str | os.PathLike,
    gt_json: str | os.PathLike,
    gt_root: str | os.PathLike,
    *,
    output: str | os.PathLike,
    images: str | os.PathLike | None = None,
    categories: str | os.PathLike | None = None,
    rules: Sequence[str] = (),
    folds: int = 5,
    num_images: int | None = None,
    workers: int | None = None,
) -> dict[str, Any]:
    """Finds the fusion rule and thresholds with the highest PQ for the result files of any two models.

    Images and entries that cannot be used are left out and listed in tuning.md.

    Args:
        instances, semantic: results of the two models, see `panoptic_fusion.fuse_files`.
        gt_json, gt_root: JSON file and PNG folder of the ground truth, in COCO panoptic format.
        output: folder for the decoded predictions and the results.
        images: JSON with the list `images` of the predictions. Only its images are used. If the ground truth has none
            of the ids, images are paired by file name. None: the images of the ground truth.
        categories: JSON with the panoptic categories of the predictions, all of which the ground truth must have.
            None: the categories in the file of the images.
        rules: names of rules, see `panoptic_fusion.fuse`; "heuristic" is always tuned. Default: all that the files can
            feed.
        folds, num_images, workers: see `tune`.

    Returns:
        The content of tuning.json: "best" {option: value}, "command", the words of the `fuse` command that uses it,
        and "verdict", "choice" and "rules" as in `tune`.

    Raises:
        UserError: nothing was tuned; the message names the file and the problem.
    """
    check_search(folds, num_images, workers)

    from panoptic_fusion.evaluation.tuning.file_study import tune_on_files
    from panoptic_fusion.files import check_writable

    check_writable(os.fspath(output), "--output")
    return tune_on_files(
        instances, semantic, gt_json, gt_root, output, images=images, categories=categories,
        names=rules, num_folds=folds, num_images=num_images, processes=workers,
    )  # fmt: skip


def check_search(folds: int, num_images: int | None, workers: int | None) -> None:
    """Checks the options of the search.

    Raises:
        UserError: a number is too low.
    """
    check_at_least_one(num_images, "--num-images")
    check_at_least_one(workers, "--workers")
    if folds < 2:
        raise UserError(f"--folds is {folds}: use 2 or more, so that one part can be held out")

"""Evaluates a trained model, or the files that any model predicted; writes results.json, results.md and a report.

    panoptic-fusion evaluate --model output/toy [--num-gpus 8] [KEY VALUE ...]
    panoptic-fusion evaluate --config-file toy/panoptic_fpn_r18.yaml MODEL.WEIGHTS output/toy/model_final.pth
    panoptic-fusion evaluate --gt-json FILE --gt-root DIR --pred-json FILE --pred-root DIR --output DIR [--images 7 8]
                             [--photos DIR]

A model is evaluated on DATASETS.TEST. With --model, OUTPUT_DIR defaults to that folder; add OUTPUT_DIR FOLDER to keep
the results of its training run. Predictions are a COCO panoptic JSON and a folder of its PNGs; --output also gets
images.csv, one row per image. In Python, `panoptic_fusion.evaluate_files` does the same.

The report, report.html, shows where quality is lost (docs/report.md). It needs the images: those of the dataset, or
--photos. A model's report and its predictions are in OUTPUT_DIR/inference/<dataset>; --no-report writes neither.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from panoptic_fusion.errors import ConfigError, UserError

from .arguments import (
    add_launcher,
    add_model,
    add_opts,
    check_at_least_one,
    check_file_options,
    check_model,
    escape_unencodable,
    launcher_of,
)

if TYPE_CHECKING:
    from detectron2.config import CfgNode

HELP = "evaluate a trained model, or the predictions of any model"
FILES = ("gt_json", "gt_root", "pred_json", "pred_root", "output")  # what an evaluation of files needs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the model, the arguments of detectron2's launcher, and the files of predictions."""
    add_model(parser)
    add_launcher(parser)
    files = parser.add_argument_group("predictions of any model, in place of --model")
    files.add_argument("--gt-json", metavar="FILE", help="COCO panoptic JSON of the ground truth")
    files.add_argument("--gt-root", metavar="DIR", help="folder of its PNGs")
    files.add_argument("--pred-json", metavar="FILE", help="COCO panoptic JSON of the predictions")
    files.add_argument("--pred-root", metavar="DIR", help="folder of its PNGs")
    files.add_argument(
        "--images",
        nargs="+",
        metavar="IMAGE",
        help="ids or file names of the images to score; FILE.txt: one per line; default: all",
    )
    files.add_argument("--output", metavar="DIR", help="folder for results.json, results.md, images.csv, report.html")
    files.add_argument("--photos", metavar="DIR", help="folder of the images; also writes report.html")
    files.add_argument("--workers", type=int, metavar="N", help="number of processes (default: one per core)")
    files.add_argument("--no-boundary", action="store_true", help="do not compute boundary PQ")
    parser.add_argument("--no-report", action="store_true", help="do not write the report of a model")
    add_opts(parser)


def run(args: argparse.Namespace) -> None:
    """Runs the command line."""
    if any(getattr(args, name) is not None for name in (*FILES, "images", "workers", "photos")):
        _run_on_files(args)
    else:
        options = {"allow_download": args.allow_download, "report": not args.no_report, **launcher_of(args)}
        evaluate(args.model, args.config_file, args.opts, **options)


def _run_on_files(args: argparse.Namespace) -> None:
    """Evaluates the files that the command line names, and prints the groups' results."""
    defaults = {name: value for name, value in (evaluate.__kwdefaults__ or {}).items() if name != "report"}
    others = {"model": None, "config_file": None, "no_report": False, **defaults}
    check_file_options(args, "evaluate", FILES, others)
    check_at_least_one(args.workers, "--workers")
    images = None if args.images is None else listed_images(args.images)

    from panoptic_fusion.evaluation.files import evaluate_files
    from panoptic_fusion.evaluation.report.write import write_report
    from panoptic_fusion.evaluation.scores import groups_table, problem_lines, sizes_table, status_line, write_scores
    from panoptic_fusion.files import check_writable

    check_writable(args.output, "--output")
    choice = {"images": images, "processes": args.workers, "boundary": not args.no_boundary}
    page = None
    if args.photos is None:
        result = evaluate_files(**{name: getattr(args, name) for name in FILES}, **choice)
    else:
        name, title = Path(args.pred_json).stem, Path(args.gt_json).stem
        predictions = {name: (args.pred_json, args.pred_root)}
        written = write_report(
            args.gt_json, args.gt_root, predictions, args.output, photos=args.photos, title=title, **choice
        )
        result, page = written["results"][name], written["page"]
        write_scores(result, args.output)
    escape_unencodable()
    parts = [groups_table(result), sizes_table(result), status_line(result), *problem_lines(result)]
    print("\n\n".join([*parts, f"Results: {Path(args.output, 'results.md')}", *([f"Report: {page}"] if page else [])]))


def listed_images(words: Sequence[str]) -> list[str]:
    """Returns ids and file names of images: those given, and the lines of each text file (NAME.txt) among them.

    Raises:
        UserError: a text file cannot be read.
    """
    images: list[str] = []
    for word in words:
        if not word.endswith(".txt"):
            images.append(word)
            continue
        try:
            lines = Path(word).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--images {word}: not a readable text file ({error})") from None
        images += [line.strip() for line in lines if line.strip()]
    return images


def evaluate(
    model: str | None = None,
    config_file: str | None = None,
    opts: Sequence[str] = (),
    *,
    allow_download: bool = False,
    report: bool = True,
    num_gpus: int = 1,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
) -> dict[str, Any]:
    """Evaluates a trained model.

    Args:
        model: OUTPUT_DIR of the training run.
        config_file: config whose MODEL.WEIGHTS (which `opts` may set) is evaluated, instead of `model`.
        opts: sequence KEY, VALUE, KEY, VALUE, ... that changes the config.
        allow_download: whether to download weights from any address in the config, see `check_downloads`.
        report: whether to also write predictions and report to OUTPUT_DIR/inference/<dataset>, and print their path.
        num_gpus, num_machines, machine_rank, dist_url: see `panoptic_fusion.cli.train.train`.

    Returns:
        {task: {metric: number in percent, or None}}, as in results.json, or {dataset: {task: ...}} if DATASETS.TEST has
        several datasets.

    Raises:
        UserError, FileNotFoundError: the message names the file or the config key and suggests a fix.
    """
    check_model(model, config_file, "--gt-json FILE and the options with it")

    from panoptic_fusion.config import default_output_dir, read_config, resolve_config, with_values
    from panoptic_fusion.engine.launch import launch_job
    from panoptic_fusion.modeling.backbone.timm_config import clear_pretrained_weights
    from panoptic_fusion.networks.downloads import check_downloads
    from panoptic_fusion.networks.trained import load_config

    if config_file and not model:
        cfg = read_config(config_file, opts)
        cfg.OUTPUT_DIR = cfg.OUTPUT_DIR or default_output_dir(config_file)
        clear_pretrained_weights(cfg)
        check_downloads(cfg, allow_download=allow_download)
        cfg = resolve_config(cfg)
    else:
        cfg = load_config(model, config_file, list(opts), allow_download=allow_download)
    report = report and "panoptic" in cfg.TEST.EVALUATORS and "panoptic_seg" in cfg.MODEL.PANOPTIC_FUSION.OUTPUTS
    if report:
        cfg = with_values(cfg, {"TEST.WRITE_PREDICTIONS": True})
    launch_job(cfg, resume=False, eval_only=True, num_gpus=num_gpus, num_machines=num_machines,
               machine_rank=machine_rank, dist_url=dist_url)  # fmt: skip
    if machine_rank == 0:
        for dataset in cfg.DATASETS.TEST:
            if report:
                _report_on(dataset, cfg)
            elif (page := evaluation_json(Path(cfg.OUTPUT_DIR), dataset).with_name("report.html")).is_file():
                print(f"{page} shows an earlier evaluation", flush=True)
    return json.loads(Path(cfg.OUTPUT_DIR, "results.json").read_text())


def evaluation_json(output_dir: Path, dataset: str) -> Path:
    """Returns the path of the predictions' JSON that an evaluation writes; its folder has the same name."""
    from panoptic_fusion.files import safe_name

    return output_dir / "inference" / safe_name(dataset) / "panoptic_predictions.json"


def _report_on(dataset: str, cfg: CfgNode) -> None:
    """Writes the report of an evaluation on a dataset, and prints its path."""
    from panoptic_fusion.data.coco_panoptic import panoptic_files
    from panoptic_fusion.evaluation.report.write import write_report

    try:
        files = panoptic_files(dataset)
    except ConfigError:
        print(f"{dataset}: no report, since it was registered without COCO panoptic files", flush=True)
        return
    path = evaluation_json(Path(cfg.OUTPUT_DIR), dataset)
    predictions = {Path(cfg.OUTPUT_DIR).absolute().name: (path, path.with_suffix(""))}
    written = write_report(
        files.panoptic_json, files.panoptic_root, predictions, path.parent,
        photos=files.images, boundary=cfg.TEST.BOUNDARY_PQ, title=dataset, max_pixels=cfg.INPUT.MAX_PIXELS,
    )  # fmt: skip
    print(f"Report: {written['page']}", flush=True)

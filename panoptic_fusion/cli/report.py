"""Writes a page that shows where panoptic quality is lost: report.html, opened by double click.

    panoptic-fusion report --gt-json FILE --gt-root DIR --photos DIR --pred-json FILE --pred-root DIR --output DIR
    panoptic-fusion report --model output/a --model output/b --output DIR [KEY VALUE ...]

Predictions are a COCO panoptic JSON and the folder of its PNGs. Models are evaluated on DATASETS.TEST of the first one;
several datasets get one folder each. Give --pred-json and --pred-root, or --model, several times to compare: the page
then shows the differences with confidence intervals. An interrupted report resumes when the command runs again.
See docs/report.md.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from panoptic_fusion.errors import UserError, counted, plain_line

from . import child
from .arguments import add_allow_download, add_opts, check_at_least_one, escape_unencodable
from .evaluate import evaluation_json, listed_images

if TYPE_CHECKING:
    from detectron2.config import CfgNode

HELP = "write a page that shows where panoptic quality is lost"
GROUND_TRUTH = ("gt_json", "gt_root", "photos", "images")
SHOWN = 20  # problems that are printed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the ground truth, the predictions or models, and the output folder."""
    parser.add_argument("--gt-json", metavar="FILE", help="COCO panoptic JSON of the ground truth")
    parser.add_argument("--gt-root", metavar="DIR", help="folder of its PNGs")
    parser.add_argument("--photos", metavar="DIR", help="folder of the images; default: a page without photos")
    parser.add_argument(
        "--pred-json", metavar="FILE", action="append", default=[], help="COCO panoptic JSON, repeatable"
    )
    parser.add_argument(
        "--pred-root", metavar="DIR", action="append", default=[], help="folder of its PNGs, repeatable"
    )
    parser.add_argument(
        "--model", metavar="DIR", action="append", default=[], help="OUTPUT_DIR of a training run, repeatable"
    )
    parser.add_argument("--name", action="append", default=[], help="name of each prediction or model on the page")
    parser.add_argument("--output", metavar="DIR", required=True, help="folder for report.html and report_files")
    parser.add_argument("--title", help="title of the page")
    parser.add_argument(
        "--images",
        nargs="+",
        metavar="IMAGE",
        help="ids or file names of the images; FILE.txt: one per line; default: all",
    )
    parser.add_argument("--workers", type=int, metavar="N", help="number of processes (default: one per core)")
    parser.add_argument("--no-boundary", action="store_true", help="do not compute boundary PQ")
    parser.add_argument("--num-gpus", type=int, default=1, help="as in `panoptic-fusion evaluate`, for each model")
    add_allow_download(parser)
    add_opts(parser)


def run(args: argparse.Namespace) -> None:
    """Runs the command line."""
    escape_unencodable()
    check_at_least_one(args.workers, "--workers")
    if len(args.pred_json) != len(args.pred_root):
        raise UserError(f"{len(args.pred_json)} --pred-json need as many --pred-root, but have {len(args.pred_root)}")
    sources = args.model or args.pred_json
    if args.name and len(args.name) != len(sources):
        raise UserError(f"{len(args.name)} --name are given for {len(sources)} predictions: give one for each, or none")
    if len(set(map(os.path.abspath, sources))) < len(sources) and not args.name:
        raise UserError("two predictions are the same: give each a --name, or leave one out")
    names = args.name or names_of(sources)
    if len(set(names)) < len(names):
        raise UserError("two predictions have the same --name: use different names")
    options: dict[str, Any] = {"processes": args.workers, "boundary": not args.no_boundary, "title": args.title}
    if args.model:
        given = [name for name in (*GROUND_TRUTH, "pred_json") if getattr(args, name)]
        if given:
            raise UserError(f"--model brings its own dataset: leave out --{given[0].replace('_', '-')}")
        models = dict(zip(names, args.model, strict=True))
        options |= {"opts": args.opts, "allow_download": args.allow_download, "num_gpus": args.num_gpus}
        results = report_models(models, args.output, **options)
    else:
        missing = [name for name in ("gt_json", "gt_root", "pred_json") if not getattr(args, name)]
        if missing or args.opts:
            wrong = [f"--{name.replace('_', '-')}" for name in missing]
            raise UserError(f"a report of files needs {', '.join(wrong)}" if wrong else f"what is {args.opts[0]!r}?")
        images = None if args.images is None else listed_images(args.images)
        predictions = dict(zip(names, zip(args.pred_json, args.pred_root, strict=True), strict=True))
        results = [
            report(args.gt_json, args.gt_root, predictions, args.output, photos=args.photos, images=images, **options)
        ]
    for result in results:
        print_report(result)


def names_of(paths: Sequence[str | os.PathLike]) -> list[str]:
    """Returns names for different files or folders: their last part, or as much of the path as makes them differ."""
    parts = [Path(os.path.abspath(path).removesuffix(".json")).parts for path in paths]
    length = 1
    while len({each[-length:] for each in parts}) < len(set(parts)):
        length += 1
    return [str(Path(*each[-length:])) for each in parts]


def print_report(result: Mapping[str, Any]) -> None:
    """Prints the PQ of each prediction, the first problems, and the path of the page."""
    for name, scores in result["results"].items():
        print(f"{name}: PQ {scores['all']['PQ']:.2f}, {counted(scores['images'], 'image')}")
    problems = [text for scores in result["results"].values() for text in scores["problems"]] + result["problems"]
    for text in dict.fromkeys(problems[:SHOWN]):
        print(f"  {plain_line(text)}")
    if len(problems) > SHOWN:
        print(f"  and {len(problems) - SHOWN} more problems")
    print(f"Report: {result['page']}")


def report(
    gt_json: str | os.PathLike,
    gt_root: str | os.PathLike,
    predictions: Mapping[str, tuple[str | os.PathLike, str | os.PathLike]],
    output: str | os.PathLike,
    *,
    photos: str | os.PathLike | None = None,
    images: Collection[Any] | None = None,
    processes: int | None = None,
    boundary: bool = True,
    title: str | None = None,
) -> dict[str, Any]:
    """Writes the report of predictions in COCO panoptic format.

    Args:
        gt_json, gt_root: JSON file and PNG folder of the ground truth.
        predictions: JSON file and PNG folder of each prediction, by its name on the page.
        output: folder for report.html and report_files.
        photos: folder of the images; None: a page without photos.
        images: ids or file names of the images; None: all.
        processes: number of processes; None: one per CPU core.
        boundary: whether to compute boundary PQ.
        title: title of the page; None: the name of the ground truth.

    Returns:
        {"page": path of report.html, "results": {name: results as from `evaluate_files`}, "problems": list of texts
        about photos}.

    Raises:
        UserError: nothing was written; the message names the file and says what to do.
    """
    from panoptic_fusion.evaluation.report.write import write_report
    from panoptic_fusion.files import check_writable

    check_writable(os.fspath(output), "--output")
    return write_report(
        gt_json, gt_root, predictions, output,
        photos=photos, images=images, processes=processes, boundary=boundary, title=title or Path(gt_json).stem,
    )  # fmt: skip


def report_models(
    models: Mapping[str, str | os.PathLike],
    output: str | os.PathLike,
    *,
    opts: Sequence[str] = (),
    allow_download: bool = False,
    num_gpus: int = 1,
    processes: int | None = None,
    boundary: bool = True,
    title: str | None = None,
) -> list[dict[str, Any]]:
    """Evaluates trained models and writes the report that compares them, for each dataset of the first one's config.

    Args:
        models: OUTPUT_DIR of each training run, by its name on the page.
        output: folder for report.html, report_files and the predictions; one folder per dataset if there are several.
        opts: sequence KEY, VALUE, KEY, VALUE, ... that changes the configs.
        allow_download: whether to download weights from any address in the configs, see `check_downloads`.
        num_gpus: number of processes per evaluation; without a GPU they run on the CPU.
        processes, boundary, title: see `report`.

    Returns:
        What `report` returns, for each dataset.

    Raises:
        UserError, FileNotFoundError: the message names the problem. Predictions made before are kept.
    """
    from panoptic_fusion.data.coco_panoptic import panoptic_files
    from panoptic_fusion.files import check_writable, safe_name
    from panoptic_fusion.networks.trained import load_config

    check_writable(os.fspath(output), "--output")
    configs = {
        name: load_config(os.fspath(model), None, list(opts), allow_download=allow_download)
        for name, model in models.items()
    }
    datasets = list(next(iter(configs.values())).DATASETS.TEST)
    for name, cfg in configs.items():
        if list(cfg.DATASETS.TEST) != datasets:
            raise UserError(f"{models[name]} is evaluated on {list(cfg.DATASETS.TEST)}, the first model on {datasets}: "
                            "set DATASETS.TEST at the end of the command")  # fmt: skip
    launcher = ["--num-gpus", str(num_gpus), *(["--allow-download"] if allow_download else [])]
    folders = {name: Path(output, "predictions", safe_name(name)) for name in models}
    for name, model in models.items():
        _predict(os.fspath(model), folders[name], list(opts), configs[name], launcher)
    reports = []
    for dataset in datasets:
        files, place = panoptic_files(dataset), Path(output) if len(datasets) == 1 else Path(output, safe_name(dataset))
        predictions = {}
        for name, folder in folders.items():
            path = evaluation_json(folder, dataset)
            predictions[name] = path, path.with_suffix("")
        reports.append(
            report(
                files.panoptic_json, files.panoptic_root, predictions, place,
                photos=files.images, processes=processes, boundary=boundary, title=title or dataset,
            )
        )  # fmt: skip
    return reports


def _predict(model: str, folder: Path, opts: list[str], cfg: CfgNode, launcher: list[str]) -> None:
    """Evaluates a model in a child process and keeps its predictions.

    Nothing is done if they were made before with the same settings of inference, of which `opts` are a part, and from
    the same weights and datasets.
    """
    import json

    from panoptic_fusion.config.read import leaves
    from panoptic_fusion.engine.inputs import input_states
    from panoptic_fusion.engine.run_compatibility import NOT_COMPARED
    from panoptic_fusion.files import write_json

    done = folder / "finished.json"
    sections = [leaves(cfg[name], f"{name}.") for name in ("MODEL", "INPUT", "TEST")]
    settings = {key: repr(value) for section in sections for key, value in section if key not in NOT_COMPARED}
    state = {"model": os.path.abspath(model), "settings": settings, **input_states(cfg, cfg.DATASETS.TEST)}
    if done.is_file() and json.loads(done.read_text()) == state:
        return
    done.unlink(missing_ok=True)  # from now on, the predictions are a mixture
    words = ["--model", model, "--no-report", *launcher]
    words += [*opts, "TEST.WRITE_PREDICTIONS", "True", "TEST.EVALUATORS", "['panoptic']", "OUTPUT_DIR", str(folder)]
    code = child.run("evaluate", *words)
    if code:
        raise UserError(f"the evaluation of {model} failed with exit code {code}: see above")
    write_json(done, state)

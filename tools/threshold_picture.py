#!/usr/bin/env python
"""Measures PQ against one threshold of the fusion, for several rules and groups of trained models, and draws it.

    python tools/threshold_picture.py --output output/thresholds --rule HeuristicFusion --rule MaskGuidedFusion \\
        --models "weight 0" "output/runs/weight 0/seed1" "output/runs/weight 0/seed2" \\
        --models "weight 5" "output/runs/weight 5/seed1" "output/runs/weight 5/seed2"

The models of a group are repetitions, for example seeds: the picture shows their mean and standard deviation. All other
settings of a rule are those of the model's config. The network runs once per image and model; its results are cached in
FOLDER, so a killed run resumes. Writes thresholds.png, thresholds.md and thresholds.json to FOLDER.
"""

import argparse
import os
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from panoptic_fusion.errors import UserError, run_cli
from panoptic_fusion.evaluation.tuning.rules import THRESHOLDS, check_names, rules_of_model
from panoptic_fusion.evaluation.tuning.scoring import score_image
from panoptic_fusion.evaluation.tuning.statistics import quality_of_sums
from panoptic_fusion.evaluation.tuning.study import cache_images
from panoptic_fusion.files import check_writable, write_atomically, write_json
from panoptic_fusion.locks import locked_folder
from panoptic_fusion.markdown import markdown_table
from panoptic_fusion.networks.trained import build_predictor, load_config, load_eval_dicts
from panoptic_fusion.processes import map_in_processes, with_progress

STYLES = ("-", "--", "-.", ":")  # one per rule; groups have colors


Curves = dict[str, list[float]]  # {rule: PQ in percent at each value}


def curves_of_model(model: str, rules: list[str], key: str, values: list[float], output: Path) -> Curves:
    """Returns the PQ in percent of each rule at each value, on the first test dataset of the model's config.

    Raises:
        UserError: the folder has no trained model, or a rule cannot be used with it or lacks the key.
        DatasetError: an image or its ground truth cannot be read.
    """
    cfg = load_config(model, None, ["MODEL.PANOPTIC_FUSION.OUTPUTS", "['panoptic_seg']"])
    network = build_predictor(cfg).model
    usable, reasons = rules_of_model(cfg, network.fusion, rules)
    for name in rules:
        if name in reasons:
            raise UserError(f"--rule {name}: {reasons[name]}")
        if key not in usable[name].keys:
            raise UserError(f"--key {key}: {name} has {', '.join(usable[name].keys)}")
    records = load_eval_dicts(cfg, cfg.DATASETS.TEST[0])
    tasks, problems = cache_images(cfg, network, records, output, f"network of {model}")
    if problems:
        raise UserError(problems[0])
    settings = {}
    for name in rules:
        axis = usable[name].keys.index(key)
        start = usable[name].start
        settings[name] = [(*start[:axis], value, *start[axis + 1 :]) for value in values]
    space = network.fusion.label_space
    score = partial(
        score_image, rules=usable, settings=settings, num_things=space.num_things, num_stuff=space.num_stuff
    )
    sums = sum(with_progress(map_in_processes(score, tasks), len(tasks), f"fusion of {model}"))
    quality = 100 * quality_of_sums(sums).reshape(len(rules), len(values))
    return dict(zip(rules, quality.tolist(), strict=True))


def deviation(curves: np.ndarray) -> np.ndarray:
    """Returns the standard deviation of a sample of curves (K, V), as in the tables of ablations; 0 for one curve."""
    return curves.std(axis=0, ddof=min(1, len(curves) - 1))


def draw(groups: dict[str, list[Curves]], key: str, values: list[float]) -> Figure:
    """Draws one line per group and rule: the mean over the models of the group, in a band of the standard deviation."""
    figure = Figure(figsize=(7, 4.2), dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for number, (label, models) in enumerate(groups.items()):
        for rule, style in zip(models[0], STYLES, strict=False):
            curves = np.array([curves[rule] for curves in models])
            mean, spread = curves.mean(axis=0), deviation(curves)
            axes.plot(values, mean, style, marker=".", color=f"C{number}", label=f"{label}, {rule}")
            axes.fill_between(values, mean - spread, mean + spread, color=f"C{number}", alpha=0.15, linewidth=0)
    axes.set_xlabel(f"MODEL.PANOPTIC_FUSION.{key}")
    axes.set_ylabel("PQ")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    return figure


def table(groups: dict[str, list[Curves]], values: list[float]) -> str:
    """Returns PQ as a Markdown table, mean ± standard deviation over the models of a group."""
    rows = []
    for label, models in groups.items():
        for rule in models[0]:
            curves = np.array([curves[rule] for curves in models])
            cells = [
                f"{mean:.1f} ± {std:.1f}" for mean, std in zip(curves.mean(axis=0), curves.std(axis=0), strict=True)
            ]
            rows.append([f"{label}, {rule}", *cells])
    return markdown_table(rows, ["PQ", *map(str, values)])


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models",
        nargs="+",
        action="append",
        required=True,
        metavar=("LABEL FOLDER", "FOLDER"),
        help="label of a group, and the OUTPUT_DIRs of its training runs; can be given more than once",
    )
    parser.add_argument("--rule", action="append", required=True, dest="rules", help="can be given more than once")
    parser.add_argument("--key", default="INSTANCES_CONFIDENCE_THRESH", help="below MODEL.PANOPTIC_FUSION")
    parser.add_argument("--values", type=float, nargs="+", default=[0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
    parser.add_argument("--output", type=Path, required=True, help="folder for the cached results and the three files")
    args = parser.parse_args()
    check_names(args.rules)
    if args.key not in THRESHOLDS:
        raise UserError(f"--key {args.key}: use one of {', '.join(THRESHOLDS)}")
    for label, *folders in args.models:
        if not folders:
            raise UserError(f"--models {label}: no folder follows the label")
    check_writable(os.fspath(args.output), "--output")
    args.output.mkdir(parents=True, exist_ok=True)
    with locked_folder(args.output, f"--output {args.output}"):
        groups = {
            label: [curves_of_model(f, args.rules, args.key, args.values, args.output) for f in folders]
            for label, *folders in args.models
        }
        write_json(args.output / "thresholds.json", {"key": args.key, "values": args.values, "PQ": groups}, indent=1)
        text = table(groups, args.values)
        write_atomically(args.output / "thresholds.md", lambda file: file.write(f"{text}\n".encode()))
        figure = draw(groups, args.key, args.values)
        write_atomically(args.output / "thresholds.png", lambda file: figure.savefig(file, format="png"))
    print(text)


if __name__ == "__main__":
    run_cli(main)

#!/usr/bin/env python
"""Draws metrics against iterations, from the metrics.json of training runs that evaluate with TEST.EVAL_PERIOD.

    python tools/learning_curve.py --model output/camvid [--model ...] --output curve.png [--metric PQ --metric PQ_th]

Prints the same figures as a Markdown table. Several models get one line style each.
"""

import argparse
import json
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from panoptic_fusion.config import read_config
from panoptic_fusion.errors import UserError, run_cli
from panoptic_fusion.files import check_writable, write_atomically
from panoptic_fusion.markdown import markdown_table

STYLES = ("-", "--", "-.", ":")  # one per model; metrics have colors
METRICS = ("PQ", "PQ_th", "PQ_st")


def read_curve(model: Path, metrics: tuple[str, ...]) -> dict[int, list[float]]:
    """Returns {iterations trained: values of the metrics in percent} of the evaluations of a run.

    A resumed run repeats iterations; the last line of an iteration counts.

    Raises:
        UserError: config.yaml is missing, or metrics.json is missing, has a line that is not JSON, or has no evaluation
            with these metrics.
    """
    path = model / "metrics.json"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines if line.strip()]
    except FileNotFoundError:
        raise UserError(f"{path}: the file is missing; --model is the OUTPUT_DIR of a training run") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    keys = [f"panoptic_seg/{metric}" for metric in metrics]
    most = read_config(model / "config.yaml").SOLVER.MAX_ITER  # the last evaluation is one later
    curve = {min(row["iteration"] + 1, most): [row[k] for k in keys] for row in rows if all(k in row for k in keys)}
    if not curve:
        raise UserError(f"{path} has no evaluation with {', '.join(metrics)}: train with TEST.EVAL_PERIOD")
    return dict(sorted(curve.items()))


def draw(curves: dict[str, dict[int, list[float]]], metrics: tuple[str, ...]) -> Figure:
    """Draws one line per model and metric."""
    figure = Figure(figsize=(6.4, 4), dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for (name, curve), style in zip(curves.items(), STYLES, strict=False):
        for number, metric in enumerate(metrics):
            label = metric if len(curves) == 1 else f"{metric}, {name}"
            values = [row[number] for row in curve.values()]
            axes.plot(list(curve), values, style, marker=".", color=f"C{number}", label=label)
    axes.set_xlabel("iterations")
    axes.set_ylabel("%")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    return figure


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, action="append", required=True, dest="models", help="OUTPUT_DIR of a run")
    parser.add_argument("--metric", action="append", dest="metrics", help=f"default: {', '.join(METRICS)}")
    parser.add_argument("--output", type=Path, required=True, help="the PNG")
    args = parser.parse_args()
    metrics = tuple(args.metrics or METRICS)
    if len(args.models) > len(STYLES):
        raise UserError(f"--model: at most {len(STYLES)} models fit one picture")
    check_writable(str(args.output.absolute().parent), "--output")
    curves = {str(model): read_curve(model, metrics) for model in args.models}
    args.output.absolute().parent.mkdir(parents=True, exist_ok=True)
    figure = draw(curves, metrics)
    write_atomically(args.output, lambda file: figure.savefig(file, format="png"))
    rows = [[model, iteration, *values] for model, curve in curves.items() for iteration, values in curve.items()]
    print(markdown_table(rows, ["model", "iterations", *metrics]))


if __name__ == "__main__":
    run_cli(main)

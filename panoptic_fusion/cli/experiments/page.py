#!/usr/bin/env python
"""Trains the systems of a spec, measures what they cost, and writes one page: tables, a figure, a gallery.

    python tools/leaderboard.py configs/ablations/leaderboard_toy.yaml --output output/leaderboard_toy --docs docs

The spec is one of tools/ablation.py, which does the trainings; those that are finished are kept. The costs (parameters,
multiply-accumulates, seconds and memory for one image of each of --sizes) are measured anew, all systems in one run and
in turns, on an image of the validation set. --docs gets <spec's name>.md, .png (PQ against time) and _gallery: the same
8 validation images through all systems. Exit code 1 if a cell of a table is empty.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from ablation_check import check_runs  # noqa: E402
from ablation_spec import Job, Spec, make_jobs, read_spec  # noqa: E402
from ablation_table import collect, commit, machine, mean_and_sd, metric_of, training_seconds  # noqa: E402
from leaderboard_costs import Costs, measure  # noqa: E402
from leaderboard_pictures import draw_figure, draw_gallery  # noqa: E402
from tabulate import tabulate  # noqa: E402

from panoptic_fusion.engine.preflight import check_writable  # noqa: E402
from panoptic_fusion.errors import ConfigError, UserError, run_cli  # noqa: E402
from panoptic_fusion.files import write_atomically, write_json  # noqa: E402

TITLES = {"PQ_dagger": "PQ†", "segm AP": "mask AP"}
NUM_IMAGES = 8


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", type=Path, help="a yaml of tools/ablation.py whose runs are all trained")
    parser.add_argument("--output", type=Path, required=True, help="folder of the trainings")
    parser.add_argument("--docs", type=Path, required=True, help="folder of the page and its pictures")
    parser.add_argument(
        "--sizes", nargs="+", type=read_size, default=[(480, 360), (2048, 1024)], help="such as 480x360"
    )
    parser.add_argument(
        "--repeats", type=int, default=5, help="timed images of each system and size; the median counts"
    )
    parser.add_argument("--threads", type=int, default=1, help="of torch, while the costs are measured")
    parser.add_argument("--photos", action="store_true", help="also photos and ground truth in the gallery")
    parser.add_argument("--num-gpus", type=int, default=1, help="as in train_net.py, for each training")
    args = parser.parse_args()
    if min(args.repeats, args.threads) < 1:
        raise UserError("--repeats and --threads must be at least 1")
    spec = read_spec(args.spec)
    evaluations = [run.name for run in spec.runs if run.eval_of is not None]
    if evaluations:
        raise ConfigError(f"{args.spec}: run {evaluations[0]!r} is not trained: a leaderboard takes no eval_of")
    check_writable(str(args.docs), "--docs")
    datasets = sorted({name for cfg in check_runs(spec).values() for name in cfg.DATASETS.TEST})
    if len(datasets) != 1:
        raise UserError(f"a leaderboard is of one data set; DATASETS.TEST has {', '.join(datasets) or 'none'}")
    train = ["tools/ablation.py", str(args.spec), "--output", str(args.output), "--num-gpus", str(args.num_gpus)]
    if run_script(*train):
        raise UserError(f"not all trainings of {args.spec} have ended well: see above")
    jobs = make_jobs(spec, args.output)
    models = {run.name: next(str(job.folder) for job in jobs if job.run == run) for run in spec.runs}
    measured_at = commit()  # before the pictures, which may be tracked files
    costs = measure(models, args.sizes, args.repeats, args.threads)

    name = args.spec.stem
    figure = args.docs / f"{name}.png"
    gallery = args.docs / f"{name}_gallery.{'jpg' if args.photos else 'png'}"
    quality = {run: [metric_of(r, "", "PQ") for r in seeds.values()] for run, seeds in collect(jobs).items()}
    draw_figure(figure, quality, {run: cost.sizes[args.sizes[0]].seconds for run, cost in costs.items()}, args.sizes[0])
    draw_gallery(gallery, models, NUM_IMAGES, args.photos)
    command = shlex.join(["python", os.path.relpath(__file__, Path.cwd()), *sys.argv[1:]])
    tables = [quality_table(spec, jobs), cost_table(costs, args.sizes)]
    page = make_page(name, tables, jobs, command, measured_at, args, figure.name, gallery.name)
    write_atomically(args.docs / f"{name}.md", lambda f: f.write(page.encode()))
    record = {run: cost.to_dict() for run, cost in costs.items()}
    write_json(args.output / "costs.json", record, indent=1)
    print(f"\n{page}\n{args.docs / f'{name}.md'}, {figure}, {gallery}")
    empty = any(cell.strip() in ("", "-") for table in tables for line in table[1:] for cell in line)
    if empty:
        print("a cell is empty: its measure is missing, or not a number", file=sys.stderr)
    return 1 if empty else 0


def read_size(text: str) -> tuple[int, int]:
    """(width, height) from such as 480x360."""
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit() and min(int(width), int(height)) >= 32):
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT, each at least 32")
    return int(width), int(height)


def run_script(script: str, *arguments: str) -> int:
    """Runs a script of the repository; its exit code."""
    return subprocess.run([sys.executable, str(ROOT / script), *arguments]).returncode


def quality_table(spec: Spec, jobs: list[Job]) -> list[list[str]]:
    """Header and rows: mean ± standard deviation over the seeds."""
    collected = collect(jobs)
    rows = [["system", *(TITLES.get(metric, metric) for metric in spec.metrics), "training s", "seeds"]]
    for run in spec.runs:
        results = collected[run.name].values()
        cells = [mean_and_sd([metric_of(r, "", metric) for r in results]) for metric in spec.metrics]
        seconds = [training_seconds(job.folder) for job in jobs if job.run == run]
        rows.append([run.name, *cells, f"{sum(seconds) / len(seconds):.0f}", str(len(seconds))])
    return rows


def cost_table(costs: dict[str, Costs], sizes: list[tuple[int, int]]) -> list[list[str]]:
    """Header and rows."""
    rows = [["system", "parameters, M"]]
    for width, height in sizes:
        rows[0] += [f"GMAC, {width}×{height}", "s per image", "peak memory, MiB"]
    for run, cost in costs.items():
        rows.append([run, f"{cost.parameters / 1e6:.2f}"])
        for size in sizes:
            at = cost.sizes[size]
            rows[-1] += [f"{at.macs / 1e9:.2f}", f"{at.seconds:.3f}", f"{at.memory / 2**20:.0f}"]
    return rows


def make_page(
    name: str,
    tables: list[list[list[str]]],
    jobs: list[Job],
    command: str,
    measured_at: str,
    args: argparse.Namespace,
    figure: str,
    gallery: str,
) -> str:
    """The markdown text."""
    quality, cost = (
        tabulate(
            rows[1:],
            rows[0],
            tablefmt="pipe",
            disable_numparse=True,
            colalign=["left"] + ["right"] * (len(rows[0]) - 1),
        )
        for rows in tables
    )
    records = [json.loads((job.folder / "ablation.json").read_text()) for job in jobs]
    commits = ", ".join(sorted({record["commit"] for record in records}))
    configs = "\n".join(
        f"- {job.run.name}: `{job.run.base}` {' '.join(job.run.opts)}".rstrip() for job in jobs_of_one_seed(jobs)
    )
    columns = (
        "photo, ground truth, then each system" if args.photos else "each system; the photos are not in this repository"
    )
    return f"""# {name.replace("_", " ").capitalize()}

Written by `{command}`. Trainings: commit {commits}; costs: commit {measured_at}, {machine()}, {args.threads} thread(s).

{configs}

## Quality

{quality}

Validation set; × 100; mean ± standard deviation where there are several seeds. Training s: wall time of the iterations,
beside whatever else the machine did.

## Cost

{cost}

The trained networks on one validation image, resized, one image at a time, to the panoptic map. Seconds: median of
{args.repeats} images, the systems in turns. Memory: of the weights and of all tensors of an image at their most. GMAC:
multiply-accumulates of convolutions and matrix products, RoI heads at the number of boxes that this image gave.

![PQ against seconds per image]({figure})

## Gallery

The same {NUM_IMAGES} validation images; columns: {columns}.

![Gallery]({gallery})
"""


def jobs_of_one_seed(jobs: list[Job]) -> list[Job]:
    return [job for job in jobs if job.seed == jobs[0].seed]


if __name__ == "__main__":
    run_cli(main)

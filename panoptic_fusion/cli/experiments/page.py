"""Writes the page of a leaderboard: tables, a figure and a gallery."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from panoptic_fusion.cli.report import report_models
from panoptic_fusion.errors import ConfigError, UserError
from panoptic_fusion.files import check_writable, write_atomically, write_json
from panoptic_fusion.markdown import markdown_table
from panoptic_fusion.networks.trained import check_is_panoptic

from .check import check_runs
from .costs import Costs, Size, measure
from .pictures import draw_figure, draw_gallery
from .runs import run_spec
from .spec import Job, Spec, create_jobs, read_spec
from .table import collect, commit, machine, mean_and_sd, metric_of, training_seconds

TITLES = {"PQ_dagger": "PQ†", "segm AP": "mask AP"}
NUM_IMAGES = 8


@dataclass(frozen=True)
class Settings:
    """Settings of the measurements and the gallery; see `panoptic_fusion.cli.leaderboard.leaderboard`."""

    sizes: list[Size]
    repeats: int
    threads: int
    photos: bool


def make_leaderboard(
    spec_file: Path, output: Path, docs: Path, settings: Settings, num_gpus: int, command: str, allow_download: bool
) -> bool:
    """Trains all untrained systems, measures all costs, and writes the page.

    Args:
        spec_file: path to the YAML file.
        output: folder of the training runs.
        docs: folder of the page and its pictures.
        settings: settings of the measurements and the gallery.
        num_gpus: number of processes per training run.
        allow_download: see `run_spec`.
        command: command line that the page shows as its origin.

    Returns:
        Whether every cell of the tables has a value.

    Raises:
        UserError, FileNotFoundError: no page was written; the message names the problem.
    """
    if min(settings.repeats, settings.threads) < 1:
        raise UserError("--repeats and --threads must be at least 1")
    spec = read_spec(spec_file)
    evaluations = [run.name for run in spec.runs if run.eval_of is not None]
    if evaluations:
        raise ConfigError(f"{spec_file}: run {evaluations[0]!r} is not trained: a leaderboard takes no eval_of")
    check_writable(str(docs), "--docs")
    configs = check_runs(spec, allow_download=allow_download)
    for name, cfg in configs.items():
        check_is_panoptic(cfg, f"{spec_file}: run {name!r}")
    datasets = sorted({name for cfg in configs.values() for name in cfg.DATASETS.TEST})
    if len(datasets) != 1:
        raise UserError(f"a leaderboard is of one dataset; DATASETS.TEST has {', '.join(datasets) or 'none'}")
    if run_spec(spec_file, output, num_gpus, command, allow_download=allow_download):
        raise UserError(f"some training runs of {spec_file} failed: see above")
    jobs = create_jobs(spec, output)
    models = {run.name: next(str(job.folder) for job in jobs if job.run == run) for run in spec.runs}
    measured_at = commit()  # before the pictures, which may be tracked files
    costs = measure(models, settings.sizes, settings.repeats, settings.threads, allow_download=allow_download)

    docs.mkdir(parents=True, exist_ok=True)
    name, first = spec_file.stem, settings.sizes[0]
    figure = docs / f"{name}.png"
    gallery = docs / f"{name}_gallery.{'jpg' if settings.photos else 'png'}"
    quality = {run: [metric_of(r, "", "PQ") for r in seeds.values()] for run, seeds in collect(jobs).items()}
    draw_figure(figure, quality, {run: cost.sizes[first].seconds for run, cost in costs.items()}, first)
    draw_gallery(gallery, models, NUM_IMAGES, settings.photos, allow_download=allow_download)
    tables = [quality_table(spec, jobs), cost_table(costs, settings.sizes)]
    page = render_page(name, tables, jobs, command, measured_at, settings, figure.name, gallery.name)
    write_atomically(docs / f"{name}.md", lambda f: f.write(page.encode()))
    write_json(output / "costs.json", {run: cost.to_dict() for run, cost in costs.items()}, indent=1)
    print(f"\n{page}\n{docs / f'{name}.md'}, {figure}, {gallery}")
    for written in report_models(models, output / "report", num_gpus=num_gpus, allow_download=allow_download):
        print(f"Report: {written['page']}")
    empty = any(cell.strip() in ("", "-") for table in tables for line in table[1:] for cell in line)
    if empty:
        print("a cell is empty: its measure is missing, or not a number", file=sys.stderr)
    return not empty


def quality_table(spec: Spec, jobs: list[Job]) -> list[list[str]]:
    """Returns the header and rows of the quality table: mean ± standard deviation over the seeds."""
    collected = collect(jobs)
    rows = [["system", *(TITLES.get(metric, metric) for metric in spec.metrics), "training s", "seeds"]]
    for run in spec.runs:
        results = collected[run.name].values()
        cells = [mean_and_sd([metric_of(r, "", metric) for r in results]) for metric in spec.metrics]
        seconds = [training_seconds(job.folder) for job in jobs if job.run == run]
        rows.append([run.name, *cells, f"{sum(seconds) / len(seconds):.0f}", str(len(seconds))])
    return rows


def cost_table(costs: dict[str, Costs], sizes: list[tuple[int, int]]) -> list[list[str]]:
    """Returns the header and rows of the cost table."""
    rows = [["system", "parameters, M"]]
    for width, height in sizes:
        rows[0] += [f"GMAC, {width}×{height}", "s per image", "peak memory, MiB"]
    for run, cost in costs.items():
        rows.append([run, f"{cost.parameters / 1e6:.2f}"])
        for size in sizes:
            at = cost.sizes[size]
            rows[-1] += [f"{at.macs / 1e9:.2f}", f"{at.seconds:.3f}", f"{at.memory / 2**20:.0f}"]
    return rows


def render_page(
    name: str,
    tables: list[list[list[str]]],
    jobs: list[Job],
    command: str,
    measured_at: str,
    settings: Settings,
    figure: str,
    gallery: str,
) -> str:
    """Returns the page as Markdown."""
    quality, cost = (
        markdown_table(rows[1:], rows[0], align=["left", *["right"] * (len(rows[0]) - 1)]) for rows in tables
    )
    records = [json.loads((job.folder / "ablation.json").read_text()) for job in jobs]
    commits = ", ".join(sorted({record["commit"] for record in records}))
    configs = "\n".join(
        f"- {job.run.name}: `{' '.join([str(job.run.base), *job.run.opts])}`" for job in jobs_of_one_seed(jobs)
    )
    columns = (
        "photo, ground truth, then each system"
        if settings.photos
        else "each system (the photos are not part of this repository)"
    )
    where = f"{machine()}, {settings.threads} thread(s)"
    return f"""# {name.replace("_", ": ", 1).replace("_", " ").capitalize()}

Generated by `{command}`. Training runs: commit {commits}. Costs: commit {measured_at}, {where}.

{configs}

## Quality

{quality}

Metrics on the validation set, multiplied by 100; mean ± standard deviation if there are several seeds. "training s" is
the wall time of the training iterations. Other jobs may have run at the same time.

## Cost

{cost}

Each trained network runs on one resized validation image at a time, up to the panoptic map. "s per image" is the median
of {settings.repeats} images, with the systems interleaved. "peak memory" is the peak of the weights and all tensors of
an image. "GMAC" counts the multiply-accumulates of convolutions and matrix products, with the RoI heads at the number
of boxes that the model found in this image.

![PQ against seconds per image]({figure})

## Gallery

The same {NUM_IMAGES} validation images. Columns: {columns}.

![Gallery]({gallery})
"""


def jobs_of_one_seed(jobs: list[Job]) -> list[Job]:
    """Returns the jobs with the first seed, one per run."""
    return [job for job in jobs if job.seed == jobs[0].seed]

"""Makes the table of an ablation: mean and standard deviation of the finished jobs' results over the seeds."""

import json
import math
import os
import statistics
import subprocess
from pathlib import Path

import panoptic_fusion
from panoptic_fusion.markdown import markdown_table

from .spec import Job, Spec

CLONE = Path(panoptic_fusion.__file__).resolve().parents[1]


def metrics_lines(folder: Path) -> list[dict]:
    """Reads the metrics.json of a training run: one entry per logged iteration, the last one if logged twice."""
    lines = {}
    if (folder / "metrics.json").is_file():
        for text in (folder / "metrics.json").read_text().splitlines():
            try:
                line = json.loads(text)
                lines[line["iteration"]] = line
            except (ValueError, KeyError):  # partial line of an interrupted run
                continue
    return [lines[i] for i in sorted(lines)]


def last_iteration(folder: Path) -> int:
    """Returns the number of iterations at the last log entry, 0 if nothing was logged."""
    lines = metrics_lines(folder)
    return lines[-1]["iteration"] + 1 if lines else 0


def training_seconds(folder: Path) -> float:
    """Returns the seconds of training, summed over the logged intervals, without start-up and evaluation."""
    seconds, before = 0.0, -1
    for line in metrics_lines(folder):
        if "time" in line:
            seconds += (line["iteration"] - before) * line["time"]
            before = line["iteration"]
    return seconds


def collect(jobs: list[Job]) -> dict[str, dict[int, dict]]:
    """Returns {run: {seed: {dataset or "": {task: {metric: number or None}}}}} of the finished jobs."""
    collected: dict[str, dict[int, dict]] = {}
    for job in jobs:
        if job.is_finished():
            results = json.loads((job.folder / "results.json").read_text())
            several = all(isinstance(v, dict) for task in results.values() for v in task.values())
            collected.setdefault(job.run.name, {})[job.seed] = results if several else {"": results}
    return collected


def metric_of(results: dict, dataset: str, metric: str) -> float | None:
    """Returns one metric of a job's results; None if it is missing or not a number."""
    task, name = ["panoptic_seg", *metric.split()][-2:]
    return results.get(dataset, {}).get(task, {}).get(name)


def mean_and_sd(values: list[float | None]) -> str:
    """Formats `mean ± sd` (sample standard deviation), or only the mean of one value; adds n if values are missing."""
    numbers = [v for v in values if v is not None and not math.isnan(v)]
    if not numbers:
        return "-"
    text = f"{statistics.mean(numbers):.2f}"
    if len(numbers) > 1:
        text += f" ± {statistics.stdev(numbers):.2f}"
    return text if len(numbers) == len(values) else f"{text} (n={len(numbers)})"


def format_table(spec: Spec, jobs: list[Job], command: str) -> tuple[str, dict]:
    """Returns the table as Markdown, and the content of results.json."""
    collected = collect(jobs)
    datasets = sorted({d for seeds in collected.values() for results in seeds.values() for d in results}) or [""]
    columns = [(d, m) for d in datasets for m in spec.metrics]
    rows, content = [], {}
    for run in spec.runs:
        seeds = collected.get(run.name, {})
        values = {f"{d} {m}".strip(): [metric_of(r, d, m) for r in seeds.values()] for d, m in columns}
        seconds = [training_seconds(j.folder) for j in jobs if j.run == run and j.seed in seeds and j.source is None]
        count = f"{len(seeds)}" if len(seeds) == len(spec.seeds) else f"{len(seeds)} of {len(spec.seeds)}"
        trained = f"{statistics.mean(seconds):.0f}" if seconds else "-"
        rows.append([run.name, *map(mean_and_sd, values.values()), trained, count])
        content[run.name] = {
            "config": str(run.base), "opts": list(run.opts), "eval_of": run.eval_of, "seeds": list(seeds),
            "metrics": values, "training_seconds": seconds,
        }  # fmt: skip
    records = [job.folder / "ablation.json" for job in jobs if job.run.name in collected and job.is_finished()]
    commits = sorted({json.loads(r.read_text())["commit"] for r in records if r.is_file()}) or [commit()]
    head = {"commits": commits, "machine": machine(), "command": command}
    bases = ", ".join(f"`{base}`" for base in dict.fromkeys(str(run.base) for run in spec.runs))
    text = (
        f"Commit {', '.join(commits)}; {head['machine']}; {bases}; `{command}`\n\n"
        + markdown_table(
            rows,
            ["run", *(f"{d} {m}".strip() for d, m in columns), "training s", "seeds"],
            align=["left", *["right"] * (len(columns) + 2)],
        )
        + "\n"
    )
    return text, {**head, "runs": content}


def commit() -> str:
    """Returns the commit of the code, with a plus sign if tracked files differ from it; the version if not a clone."""
    if not (CLONE / ".git").exists():
        return f"version {panoptic_fusion.__version__}"
    git = ["git", "-C", str(CLONE)]
    try:
        name = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
        changes = subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True).returncode
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return name.strip() + ("+" if changes else "")


def machine() -> str:
    """Describes the CPU cores available to this process, and the GPU if there is one."""

    import torch

    cores = f"{len(os.sched_getaffinity(0))} CPU cores"
    return f"{cores}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else cores

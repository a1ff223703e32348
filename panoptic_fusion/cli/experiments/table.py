"""The table of an ablation: the results of the finished jobs as mean and standard deviation over the seeds."""

import json
import math
import os
import statistics
import subprocess
from pathlib import Path

from tabulate import tabulate

import panoptic_fusion

from .spec import Job, Spec

CLONE = Path(panoptic_fusion.__file__).resolve().parents[1]


def metrics_lines(folder: Path) -> list[dict]:
    """The training's metrics.json, one line an iteration that was logged, the last one where it was logged twice."""
    lines = {}
    if (folder / "metrics.json").is_file():
        for text in (folder / "metrics.json").read_text().splitlines():
            try:
                line = json.loads(text)
                lines[line["iteration"]] = line
            except (ValueError, KeyError):  # half a line, when it was killed
                continue
    return [lines[i] for i in sorted(lines)]


def last_iteration(folder: Path) -> int:
    """The iteration that was logged last."""
    lines = metrics_lines(folder)
    return lines[-1]["iteration"] + 1 if lines else 0


def training_seconds(folder: Path) -> float:
    """Seconds of training: those of each logged stretch of iterations; start-up and evaluation do not count."""
    seconds, before = 0.0, -1
    for line in metrics_lines(folder):
        if "time" in line:
            seconds += (line["iteration"] - before) * line["time"]
            before = line["iteration"]
    return seconds


def collect(jobs: list[Job]) -> dict[str, dict[int, dict]]:
    """{run: {seed: {data set or "": {task: {metric: number or None}}}}} of what is finished."""
    collected: dict[str, dict[int, dict]] = {}
    for job in jobs:
        if job.is_finished():
            results = json.loads((job.folder / "results.json").read_text())
            several = all(isinstance(v, dict) for task in results.values() for v in task.values())
            collected.setdefault(job.run.name, {})[job.seed] = results if several else {"": results}
    return collected


def metric_of(results: dict, dataset: str, metric: str) -> float | None:
    """One number of a job's results; None where it is missing or not a number."""
    task, name = ["panoptic_seg", *metric.split()][-2:]
    return results.get(dataset, {}).get(task, {}).get(name)


def mean_and_sd(values: list[float | None]) -> str:
    """`mean ± sd` (of the sample), the mean alone for one value; how many of them count, if not all do."""
    numbers = [v for v in values if v is not None and not math.isnan(v)]
    if not numbers:
        return "-"
    text = f"{statistics.mean(numbers):.2f}"
    if len(numbers) > 1:
        text += f" ± {statistics.stdev(numbers):.2f}"
    return text if len(numbers) == len(values) else f"{text} (n={len(numbers)})"


def make_table(spec: Spec, jobs: list[Job], command: str) -> tuple[str, dict]:
    """The markdown text and the content of results.json."""
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
        + tabulate(
            rows,
            ["run", *(f"{d} {m}".strip() for d, m in columns), "training s", "seeds"],
            tablefmt="pipe",
            disable_numparse=True,
            colalign=["left", *["right"] * (len(columns) + 2)],
        )
        + "\n"
    )
    return text, {**head, "runs": content}


def commit() -> str:
    """The commit of the code, with a plus sign where tracked files differ from it; its version where it is no clone."""
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
    """Cores that this process may use, and the GPU if there is one."""
    import torch

    cores = f"{len(os.sched_getaffinity(0))} CPU cores"
    return f"{cores}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else cores

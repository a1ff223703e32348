"""Runs the jobs of an ablation one after another and keeps its table up to date."""

import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from panoptic_fusion.cli import child
from panoptic_fusion.config import read_config, resolve_config
from panoptic_fusion.data.catalogs import forgotten_datasets
from panoptic_fusion.engine.inputs import changed_inputs
from panoptic_fusion.files import check_writable, write_atomically, write_json
from panoptic_fusion.locks import locked_folder

from .check import check_initial_weights, check_runs
from .spec import Job, check_unchanged, create_jobs, flatten_settings, read_spec
from .table import commit, format_table, last_iteration

LOG_LINES = 15


def start(job: Job, launcher: Sequence[str]) -> subprocess.Popen:
    """Starts a job, whose output is appended to ablation.log."""
    job.folder.mkdir(parents=True, exist_ok=True)
    record = {"settings": flatten_settings(job), "commit": commit()}
    write_json(job.folder / "ablation.json", record, indent=1)
    mode = "--eval-only" if job.source else "--resume"
    words = ["train", "--config-file", str(job.run.base), mode]
    words += [*launcher, *job.opts(), "OUTPUT_DIR", str(job.folder)]
    with open(job.folder / "ablation.log", "a") as log:
        log.write(f"\n$ {shlex.join(child.command_line(*words))}\n")
        log.flush()
        return child.start(*words, stdout=log, stderr=subprocess.STDOUT)


def run_job(job: Job, launcher: Sequence[str], label: str) -> int:
    """Runs a job to its end and returns its exit code; shows the current iteration on a terminal."""
    total = read_config(job.run.base, job.opts()).SOLVER.MAX_ITER
    process = start(job, launcher)
    began, terminal = time.monotonic(), sys.stdout.isatty()
    try:
        while process.poll() is None:
            time.sleep(0.2)
            if terminal and job.source is None:
                done = last_iteration(job.folder)
                spent = time.monotonic() - began
                print(f"\r{label}: iteration {done} of {total}, {duration(spent)}  ", end="", flush=True)
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if terminal:
        print("\r\033[K", end="")
    return process.returncode


def run_all(jobs: list[Job], launcher: Sequence[str], after_each: Callable) -> list[Job]:
    """Runs all unfinished jobs one after another; returns the jobs that failed."""
    failed, spent = [], {True: [], False: []}
    for number, job in enumerate(jobs):
        label = f"[{number + 1}/{len(jobs)}] {job}"
        if job.is_finished():
            changed = ", ".join(changed_since(job))
            print(f"{label}: finished before" + (f"; {changed} changed since: remove {job.folder}" if changed else ""))
            continue
        if job.source is not None and not (job.source / "results.json").is_file():
            print(f"{label}: left out, the run that it evaluates failed", file=sys.stderr)
            failed.append(job)
            continue
        print(f"{label}: {'evaluating' if job.source else 'training'} ...", flush=True)
        began = time.monotonic()
        code = run_job(job, launcher, label)
        spent[job.source is None].append(time.monotonic() - began)
        left = [other for other in jobs[number + 1 :] if not other.is_finished()]
        if code or not job.is_finished():
            failed.append(job)
            log = (job.folder / "ablation.log").read_text(errors="replace").splitlines()[-LOG_LINES:]
            print(f"{label}: FAILED with exit code {code}; the end of {job.folder}/ablation.log:", file=sys.stderr)
            print("\n".join(f"    {line}" for line in log), file=sys.stderr, flush=True)
        else:
            print(f"{label}: done in {duration(spent[job.source is None][-1])}; {remaining(left, spent)}", flush=True)
        after_each()
    return failed


def changed_since(job: Job) -> list[str]:
    """Returns which inputs of a finished job have changed since it was started."""
    with forgotten_datasets():
        cfg = resolve_config(read_config(job.run.base, job.opts()))
        return changed_inputs(cfg, job.folder, [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST])


def remaining(left: list[Job], spent: Mapping[bool, list[float]]) -> str:
    """Describes the remaining work, with a time estimate from the training runs and evaluations so far."""
    seconds = 0.0
    for job in left:
        known = spent[job.source is None] or spent[job.source is not None]
        seconds += statistics.mean(known)
    return f"{len(left)} to go, about {duration(seconds)}" if left else "the last one"


def duration(seconds: float) -> str:
    """Formats a duration, such as 1:02:03."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def run_spec(spec_file: Path, output: Path, num_gpus: int, command: str, *, allow_download: bool = False) -> list[str]:
    """Runs all unfinished runs of a YAML file and writes the table.

    Args:
        spec_file: path to the YAML file.
        output: folder of the runs, table.md and results.json.
        num_gpus: number of processes per run.
        command: command line that the table shows as its origin.
        allow_download: downloads weights from any address that a config names.

    Returns:
        The failed runs, as "NAME, seed N".

    Raises:
        UserError, FileNotFoundError: nothing was run; the message names the problem.
    """
    spec = read_spec(spec_file)
    jobs = create_jobs(spec, output)
    check_writable(str(output), "--output")
    check_unchanged(jobs)
    configs = check_runs(spec, allow_download=allow_download)
    check_initial_weights(jobs, configs, output)

    def write_table() -> str:
        text, content = format_table(spec, jobs, command)
        write_atomically(output / "table.md", lambda f: f.write(text.encode()))
        write_json(output / "results.json", content, indent=1)
        return text

    output.mkdir(parents=True, exist_ok=True)
    with locked_folder(output, f"--output {output}"):
        launcher = ["--num-gpus", str(num_gpus), *(["--allow-download"] if allow_download else [])]
        failed = run_all(jobs, launcher, write_table)
    print(f"\n{write_table()}\n{output / 'table.md'}, {output / 'results.json'}")
    if failed:
        print(f"{len(failed)} of {len(jobs)} runs failed: {'; '.join(map(str, failed))}", file=sys.stderr)
    return [str(job) for job in failed]

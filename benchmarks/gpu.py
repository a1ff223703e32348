"""Measures everything that needs a GPU, in at most nine minutes, and prints one table. `gpu.sh` installs and calls it.

    benchmarks/gpu.sh [--device cuda] [--output output/gpu] [--quick]

Each part runs in a process of its own with a time limit, so a part that fails or hangs does not stop the others. The
parts are in `gpu_parts.py`. OUTPUT/gpu.md holds the table, and OUTPUT/*.log what each part printed. "ratio" is the time
or memory of the peer divided by ours.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import sys
import time
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import torch
from arguments import parse_arguments
from gpu_parts import PARTS, SYSTEMS

TOTAL_SECONDS = 530
COLUMNS = ("ours", "loop", "peer", "ratio", "note")
QUICK_PARTS = tuple(name for name in PARTS if name not in (*SYSTEMS[1:], "training run of seamless"))


def run_part(name: str, args: argparse.Namespace) -> None:
    """Runs a part and appends its rows to OUTPUT/rows.jsonl as soon as they are known."""
    path, log = Path(args.output) / "rows.jsonl", Path(args.output) / f"{name.replace(' ', '_')}.log"

    def report(what: str, **values: str | float) -> None:
        with path.open("a") as file:
            file.write(json.dumps({"what": what, **values}) + "\n")

    with log.open("w", buffering=1) as file, redirect_stdout(file), redirect_stderr(file):
        try:
            torch.set_num_threads(args.threads)
            PARTS[name][0](args, report)
        except Exception as error:
            traceback.print_exc(file=file)
            report(f"{name}: FAILED", note=f"{type(error).__name__}: {str(error)[:120]} ({log})")
            raise SystemExit(1) from error


def run_all(args: argparse.Namespace) -> list[str]:
    """Runs the parts one after another; returns the names of those that failed or were stopped."""
    context, failed = multiprocessing.get_context("fork"), []  # the imports of this process are shared
    deadline = time.monotonic() + TOTAL_SECONDS
    for name in args.parts:
        limit = min(PARTS[name][1], deadline - time.monotonic())
        start = time.monotonic()
        process = context.Process(target=run_part, args=(name, args))
        process.start()
        process.join(max(limit, 1))
        if process.is_alive():
            process.kill()
            process.join()
            with (Path(args.output) / "rows.jsonl").open("a") as file:
                file.write(json.dumps({"what": f"{name}: STOPPED", "note": f"after {limit:.0f} s"}) + "\n")
        if process.exitcode != 0:
            failed.append(name)
        print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    return failed


def table(rows: list[dict], args: argparse.Namespace) -> str:
    """Returns the table in Markdown."""
    cuda = torch.cuda.get_device_name(args.device) if args.device != "cpu" else platform.processor() or "CPU"
    lines = [f"{cuda}, {args.threads} CPU threads, torch {torch.__version__}\n", f"| what | {' | '.join(COLUMNS)} |"]
    lines.append("|---" * (1 + len(COLUMNS)) + "|")
    for row in rows:
        cells = [row.get(column, "") for column in COLUMNS]
        cells = [f"{cell:.2f}" if isinstance(cell, float) else str(cell).replace("|", "/") for cell in cells]
        lines.append(f"| {' | '.join([row['what'], *cells])} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Entry point of the command-line tool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--output", default="output/gpu", help="folder for the table and the logs")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=tuple(PARTS))
    parser.add_argument("--threads", type=int, default=4)
    args = parse_arguments(parser, parts=QUICK_PARTS, threads=1)
    if args.device != "cpu" and not torch.cuda.is_available():
        parser.error(f"--device {args.device}: no GPU is available; try --device cpu --quick")
    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    (output / "rows.jsonl").write_text("")
    failed = run_all(args)
    text = table([json.loads(line) for line in (output / "rows.jsonl").read_text().splitlines()], args)
    (output / "gpu.md").write_text(text)
    print(text)
    print(f"failed: {', '.join(failed) or 'none'}; table: {output / 'gpu.md'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

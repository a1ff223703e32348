"""Runs all attacks, or some; a soak that was interrupted resumes.

    PYTHONPATH=tools:tests/helpers python -m soak [--output output/soak] [--only kills ...] [--quick]

Every attempt is written to OUTPUT/results.jsonl when it ends. The same command starts again with the attempts that are
left and those that failed. At the end, OUTPUT/table.md has a table of all attempts. Exit code 1 if one of them failed.
"""

import argparse
import importlib
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from tabulate import tabulate
from tiny_training import ROOT

from panoptic_fusion.data.journal import append_record, read_records
from panoptic_fusion.errors import run_cli
from panoptic_fusion.files import check_writable, write_text
from panoptic_fusion.locks import locked_folder

from .attempts import Attempt, Place
from .material import make_material
from .processes import AttackFailed

ATTACKS = ("inputs", "disks", "together", "fuzzes", "kills", "growth")


def main() -> int:
    """Runs the tool; returns 1 if an attempt failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("output/soak"), help="folder of the results")
    parser.add_argument("--only", nargs="+", choices=ATTACKS, default=ATTACKS, help="default: all")
    parser.add_argument("--seed", type=int, default=0, help="of all choices")
    parser.add_argument("--quick", action="store_true", help="a few attempts: shows that it runs")
    args = parser.parse_args()
    check_writable(str(args.output), "--output")
    output = args.output.absolute()
    output.mkdir(parents=True, exist_ok=True)
    found = [attempt for name in args.only for attempt in importlib.import_module(f"soak.{name}").attempts(args.quick)]
    with locked_folder(output, f"--output {args.output}"):
        results = run_all(found, output, args.seed)
    text = table([results[attempt.row, attempt.case] for attempt in found])
    write_text(output / "table.md", f"{text}\n")
    print(f"\n{text}")
    return int(any(result["fault"] for result in results.values()))


def run_all(attempts: list[Attempt], output: Path, seed: int) -> dict[tuple[str, str], dict[str, Any]]:
    """Runs the attempts that are left; returns the results of all attempts so far by row and case."""
    results = read_results(output / "results.jsonl")
    material = make_material(output / "material")
    left = [each for each in attempts if results.get((each.row, each.case), {"fault": ""})["fault"] is not None]
    began, commit = time.monotonic(), _commit()
    for number, attempt in enumerate(left):
        folder = output / "attempt"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        start = time.monotonic()
        times, figure, fault = 1, "", None
        try:
            times, figure = attempt.run(Place(material, folder, seed))
        except AttackFailed as error:
            fault = str(error)
        except Exception as error:  # an output that is not as expected: a fault of this attempt only
            fault = f"{type(error).__name__}: {error}"
        seconds = round(time.monotonic() - start, 1)
        result = {"row": attempt.row, "case": attempt.case, "times": times, "figure": figure, "fault": fault}
        results[attempt.row, attempt.case] = result
        append_record(output / "results.jsonl", {**result, "seconds": seconds, "commit": commit, "seed": seed})
        rest = (time.monotonic() - began) / (number + 1) * (len(left) - number - 1)
        says = f"FAILED: {fault}" if fault else figure or "held"
        progress = f"{number + 1}/{len(left)}, about {rest / 60:.0f} min left"
        print(f"[{progress}] {attempt.row}: {attempt.case}: {says}", flush=True)
    return results


def read_results(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Returns the last result of each attempt by row and case."""
    records = read_records(path) if path.is_file() else ()
    return {(result["row"], result["case"]): result for result in records}


def table(results: list[dict[str, Any]]) -> str:
    """Returns a table with a row for each kind of attempt: how often, what failed, and the figures."""
    rows = []
    for name in dict.fromkeys(result["row"] for result in results):
        of_row = [result for result in results if result["row"] == name]
        failed = sum(result["fault"] is not None for result in of_row)
        figures = "; ".join(dict.fromkeys(result["figure"] for result in of_row if result["figure"]))
        rows.append([name, sum(result["times"] for result in of_row), failed, figures])
    return tabulate(rows, ["Attempt", "Number", "Lost or failed", "Figures"], tablefmt="github", disable_numparse=True)


def _commit() -> str:
    done = subprocess.run(["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    run_cli(main, "soak")

#!/usr/bin/env python
"""Changes the package in many small ways, one at a time, and counts how many of the changes the tests notice.

    python tools/mutation_run.py --output FOLDER [--mutants 300] [--seed 0] [--seconds 20] [--retry]

A mutant is a copy of the repository with one change (tools/mutants.py). The sample is spread evenly over the files. A
mutant is run against the fastest tests that execute its lines, about `--seconds` of them. It counts as noticed if a
test fails, crashes or does not end.

Finished work is kept in FOLDER: run the same command again to continue, with `--retry` to repeat the survivors after
tests have been added. Each run of tests is a fork of one process that has imported the large packages (Linux).
"""

import argparse
import contextlib
import hashlib
import importlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
from executed_lines import ExecutedLines
from mutants import Mutant, find_mutants
from tabulate import tabulate

ROOT = Path(__file__).resolve().parents[1]
PATHS = ["modeling/fusion", "evaluation", "layers", "data/label_space.py", "data/mapper.py", "checkpoint"]
TESTS = """modeling/fusion modeling/test_abn_backbone.py evaluation layers checkpoint data/test_label_space.py
    data/test_mapper.py data/test_training_data.py config/test_thresholds.py engine/test_checkpointer.py
    engine/test_divergence.py cli/test_oracle.py cli/test_check_command.py
    cli/test_evaluate_files.py cli/test_report.py""".split()
PRELOAD = ["torch", "torchvision", "cv2", "matplotlib.pyplot", "pycocotools.mask", "detectron2.engine"]
MAX_TESTS = 300  # per mutant
MEMORY = 12 << 30  # bytes of address space per run of tests, of which torch reserves 5 GB
SURVIVED = "survived"  # other outcomes: "noticed", or "ended" after a crash or the time limit
PYTEST = ["-q", "--durations=0", "-p", "no:cacheprovider", "-m", "not slow and not gpu"]


class Run:
    """A mutation run in a folder: `copy` of the repository, `tests` (what each test file executes), results."""

    def __init__(self, output: Path, root: Path, paths: list[Path], tests: list[Path]):
        self.output, self.root, self.copy = output, root, output / "copy"
        self.results_file = output / "results.jsonl"
        copy_repository(root, self.copy)
        self.files = list_python_files(self.copy, paths, "*.py")
        self.test_files = list_python_files(self.copy, tests, "test_*.py")

    def find_tests(self) -> None:
        """Runs each test file once and stores what it executes, unless that is known."""
        sources = hashlib.sha256(b"".join((self.copy / file).read_bytes() for file in self.files)).hexdigest()
        self.seconds: dict[str, float] = {}
        self.tests: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
        for file in self.test_files:
            digest = hashlib.sha256(sources.encode() + (self.copy / file).read_bytes()).hexdigest()[:16]
            stored = self.output / "tests" / f"{digest}.json"
            if not stored.is_file():
                print(f"running {file}", flush=True)
                run_forked(lambda: self.record(file, stored), self.copy, self.output / "log.txt", 1200)  # noqa: B023
            if not stored.is_file():
                print(f"{file} did not end: see {self.output / 'log.txt'}")
                continue
            known = json.loads(stored.read_text())
            self.seconds.update(known["seconds"])
            for target, lines in known["lines"].items():
                for line, names in lines.items():
                    self.tests[str(Path(target).relative_to(self.copy))][int(line)].extend(names)

    def record(self, file: Path, stored: Path) -> int:
        """Runs a test file and stores what its tests execute; called in a process of its own."""
        recorder = ExecutedLines([self.copy / file for file in self.files])
        pytest.main([*PYTEST, str(file)], plugins=[recorder])
        stored.parent.mkdir(exist_ok=True)
        part = stored.with_suffix(".part")
        part.write_text(json.dumps(recorder.result()))
        part.rename(stored)
        return 0

    def sample(self, number: int, seed: int) -> list[Mutant]:
        """Returns mutants at random, one from each of `number` equal parts of all of them, in random order."""
        every = [mutant for file in self.files for mutant in find_mutants((self.copy / file).read_bytes(), str(file))]
        number, generator = min(number, len(every)), random.Random(seed)
        cuts = [len(every) * i // number for i in range(number + 1)]
        chosen = [generator.choice(every[begin:end]) for begin, end in zip(cuts[:-1], cuts[1:], strict=True)]
        generator.shuffle(chosen)
        return chosen

    def choose_tests(self, mutant: Mutant, seconds: float) -> list[str]:
        """Returns the fastest tests that execute the mutant's lines.

        Of what is executed on import, and of lines that no test executes (or only in another process), they are all
        tests in the files of those that execute any line of the mutant's file.
        """
        lines = self.tests[mutant.file]
        changed = range(mutant.lines[0], mutant.lines[1] + 1)
        executing = {test for line in changed for test in lines.get(line, []) if not mutant.at_import}
        if not executing:
            test_files = {test.split("::")[0] for tests in lines.values() for test in tests}
            executing = {test for test in self.seconds if test.split("::")[0] in test_files}
        chosen, total = [], 0.0
        for test in sorted(executing, key=lambda test: (self.seconds[test], test))[:MAX_TESTS]:
            total += self.seconds[test]
            if chosen and total > seconds:
                break
            chosen.append(test)
        return chosen

    def results(self) -> dict[str, dict]:
        """Returns {mutant's key: its last result}."""
        if not self.results_file.is_file():
            return {}
        lines = self.results_file.read_text().splitlines()
        return {result["key"]: result for result in map(json.loads, lines)}

    def try_mutant(self, number: int, mutant: Mutant, seconds: float) -> dict:
        """Runs the tests on one mutant and appends its result to the results."""
        file, tests = self.copy / mutant.file, self.choose_tests(mutant, seconds)
        source, times = file.read_bytes(), (file.stat().st_mtime, file.stat().st_mtime)
        begin, outcome = time.monotonic(), SURVIVED
        if tests:
            file.write_bytes(mutant.apply(source))
            os.utime(file, (10**9 + number,) * 2)  # Python and numba recompile a file of another time
            try:
                limit = 30 + 3 * round(sum(map(self.seconds.__getitem__, tests)))
                work = lambda: pytest.main([*PYTEST, "-x", *tests])  # noqa: E731
                code = run_forked(work, self.copy, self.output / "log.txt", limit)
            finally:
                file.write_bytes(source)
                os.utime(file, times)
            outcome = "ended" if code is None else "noticed" if code else SURVIVED
        result = {"key": mutant.key, "outcome": outcome, "tests": len(tests), "seconds": time.monotonic() - begin}
        with self.results_file.open("a") as stream:
            stream.write(json.dumps({**mutant._asdict(), **result}) + "\n")
        return result


def copy_repository(root: Path, copy: Path) -> None:
    """Copies all files that git does not ignore; an equal file stays untouched, another one is replaced."""
    command = ["git", "-C", str(root), "ls-files", "-co", "--exclude-standard", "-z"]
    for name in subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\0"):
        source, target = root / name, copy / name
        if source.is_file() and not (target.is_file() and target.read_bytes() == source.read_bytes()):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)


def list_python_files(copy: Path, paths: list[Path], pattern: str) -> list[Path]:
    """Returns the Python files of files and folders, relative to the copy."""
    found = [
        file for path in paths for file in ([copy / path] if path.suffix else sorted((copy / path).rglob(pattern)))
    ]
    return [file.relative_to(copy) for file in found]


def run_forked(work: Callable[[], int], copy: Path, log: Path, limit: int) -> int | None:
    """Returns what `work` returns in a forked process that works in `copy`; None if it crashed or did not end.

    `limit` is CPU time, so that a busy machine changes no result; one that sleeps is ended after ten times as long.
    """
    child = os.fork()
    if child == 0:
        code = 255
        try:
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            with log.open("w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            os.chdir(copy)
            sys.path.insert(0, str(copy))
            os.environ["PYTHONPATH"] = str(copy)
            code = int(work())
            sys.stdout.flush()
        finally:
            os._exit(code)
    end, done, status = time.monotonic() + 10 * limit, 0, 0
    try:
        while not done and time.monotonic() < end:
            done, status = os.waitpid(child, os.WNOHANG)
            time.sleep(0 if done else 0.02)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
    if not done:
        os.waitpid(child, 0)
    return os.WEXITSTATUS(status) if done and os.WIFEXITED(status) else None


def summarize(mutants: list[Mutant], results: dict[str, dict], paths: list[Path]) -> str:
    """Returns a table with one row per path, and the list of the mutants that no test noticed."""
    rows = []
    for path in paths:
        outcomes = [results[m.key]["outcome"] for m in mutants if Path(m.file).is_relative_to(path)]
        survived = outcomes.count(SURVIVED)
        rows.append([path, len(outcomes), len(outcomes) - survived, survived])
    rows.append(["all", *(sum(row[i] for row in rows) for i in (1, 2, 3))])
    lines = [tabulate(rows, ["part", "mutants", "noticed", "survived"], tablefmt="github"), ""]
    for mutant in sorted(mutants):
        if results[mutant.key]["outcome"] == SURVIVED:
            tests = results[mutant.key]["tests"]
            lines.append(f"{mutant.file}:{mutant.lines[0]} {mutant.old} -> {mutant.new} ({tests} tests)")
    return "\n".join(lines)


def main() -> None:
    """Runs the tool."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", required=True, type=Path, help="folder of the copy and the results")
    parser.add_argument("--mutants", type=int, default=300, help="size of the sample")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample")
    parser.add_argument("--seconds", type=float, default=20, help="CPU seconds of tests per mutant")
    parser.add_argument("--retry", action="store_true", help="repeat the mutants that no test noticed")
    parser.add_argument("--root", type=Path, default=ROOT, help="another repository")
    parser.add_argument("--paths", type=Path, nargs="+", default=[Path("panoptic_fusion", path) for path in PATHS])
    parser.add_argument("--tests", type=Path, nargs="+", default=[Path("tests", path) for path in TESTS])
    parser.add_argument("--preload", nargs="*", default=PRELOAD, help="modules that the tests import")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ends the running tests, too
    for name in args.preload:
        importlib.import_module(name)
    args.output.mkdir(parents=True, exist_ok=True)
    run = Run(args.output.resolve(), args.root, args.paths, args.tests)
    run.find_tests()
    mutants, results = run.sample(args.mutants, args.seed), run.results()
    for number, mutant in enumerate(mutants):
        outcome = results.get(mutant.key, {}).get("outcome")
        if outcome is None or (args.retry and outcome == SURVIVED):
            results[mutant.key] = run.try_mutant(number, mutant, args.seconds)
            print(f"{number + 1}/{len(mutants)} {results[mutant.key]['outcome']} {mutant.key}", flush=True)
    print(summarize(mutants, results, args.paths))


if __name__ == "__main__":
    main()

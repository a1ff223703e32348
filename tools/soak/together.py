"""Starts commands twice at once, on several processes and machines, and kills one process of two."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from functools import partial
from pathlib import Path

from .attempts import Attempt, Place
from .complete_files import check_complete, leftovers
from .kills import EQUAL
from .material import Material
from .processes import AttackFailed, Started, run, wait_until

TWICE = "Every command started twice at once in one folder, then once more"
SPLIT = "1, 2 and 3 processes, with 4 images or more: the same files"
ONE_OF_TWO = "One process of two killed: one line, and the next run completes"
MACHINES = "`--num-machines 2` on loopback: the result of 2 processes of one machine"


def attempts(quick: bool) -> list[Attempt]:
    """Returns the attempts of all four rows."""
    names = list(Material(Path()).commands(Path()))
    if quick:
        return [Attempt(SPLIT, "fuse", partial(_split, name="fuse"))]
    found = [Attempt(ONE_OF_TWO, name, partial(_kill_one, name=name)) for name in ("fuse", "import", "report", "train")]
    found += [Attempt(SPLIT, name, partial(_split, name=name)) for name in names if name in SPLIT_COMMANDS]
    found += [Attempt(SPLIT, "evaluate", _split_evaluation), Attempt(MACHINES, "train", _two_machines)]
    return [*found, *(Attempt(TWICE, name, partial(_twice, name=name)) for name in names)]


SPLIT_COMMANDS = ("fuse", "report", "evaluate files", "import")


def _twice(place: Place, name: str) -> tuple[int, str]:
    out = place.folder / "out"
    place.material.prepare_output(name, out)
    words = place.material.commands(out)[name]
    pair = [Started(words, place.folder / f"{number}.log") for number in range(2)]
    outcomes = [command.wait() for command in pair]
    for outcome in outcomes:
        if outcome.code:
            outcome.one_line()
    if all(outcome.code for outcome in outcomes):
        raise AttackFailed(f"neither completed: {outcomes[0].end()} || {outcomes[1].end()}")
    check_complete(out)
    again = run(words, place.folder)
    if again.code or leftovers(out):
        raise AttackFailed(f"run again, exit code {again.code}, left {leftovers(out)[:3]}: {again.end()}")
    return 1, ""


def _split(place: Place, name: str) -> tuple[int, str]:
    contents = []
    for workers in (1, 2, 3):
        out = place.folder / f"out{workers}"
        outcome = run(place.material.commands(out, workers)[name], place.folder)
        if outcome.code:
            raise AttackFailed(f"{workers} processes, exit code {outcome.code}: {outcome.end()}")
        contents.append([(out / file).read_bytes() for file in EQUAL[name]])
    if contents[0] != contents[1] or contents[0] != contents[2]:
        raise AttackFailed(f"the files depend on the number of processes: {EQUAL[name]}")
    return 3, ""


def _split_evaluation(place: Place) -> tuple[int, str]:
    """4 images on 1, 2 and 3 processes of a job."""
    results = []
    for number in (1, 2, 3):
        out = place.folder / f"out{number}"
        words = place.material.commands(out)["evaluate"]
        results.append(_results(place, [words[0], "--num-gpus", number, *words[1:]], out))
    if results[0] != results[1] or results[0] != results[2]:
        different = sorted(key for key in results[0] if len({result.get(key) for result in results}) > 1)
        raise AttackFailed(f"the results depend on the number of processes: {', '.join(different)}")
    return 3, ""


def _two_machines(place: Place) -> tuple[int, str]:
    out, other = place.folder / "machines", place.folder / "processes"
    words = place.material.commands(out)["train"]
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
    job = ["--num-machines", 2, "--dist-url", f"tcp://127.0.0.1:{port}"]
    commands = [Started([words[0], *job, "--machine-rank", rank, *words[1:]], place.folder / f"machine{rank}.log")
                for rank in range(2)]  # fmt: skip
    for outcome in [command.wait() for command in commands]:
        if outcome.code:
            raise AttackFailed(f"exit code {outcome.code}: {outcome.end()}")
    words = place.material.commands(other)["train"]
    expected = _results(place, [words[0], "--num-gpus", 2, *words[1:]], other)
    if _numbers(out) != expected:
        raise AttackFailed(f"{out}/results.json differs from {other}/results.json")
    return 1, ""


def _kill_one(place: Place, name: str) -> tuple[int, str]:
    """Kills a process that the command has started as soon as the first file is there."""
    out = place.folder / "out"
    words = place.material.commands(out)[name]
    words = [words[0], "--num-gpus", 2, *words[1:]] if name == "train" else words
    command = Started(words, place.folder / "killed.log")
    first = {"train": "*.pth", "fuse": "panoptic/*.png", "import": "*", "report": "report_files/*/*"}
    started = wait_until(lambda: len(command.children()) >= 2 and any(out.glob(first[name])), command, 0.002)
    if not started:
        raise AttackFailed(f"it ended before a process could be killed: {command.wait().end()}")
    with contextlib.suppress(ProcessLookupError):
        os.kill(command.children()[-1], signal.SIGKILL)
    outcome = command.wait(120)
    if outcome.code:
        outcome.one_line()
    check_complete(out)
    again = run(words, place.folder)
    if again.code or leftovers(out):
        raise AttackFailed(f"run again, exit code {again.code}, left {leftovers(out)[:3]}: {again.end()}")
    return 1, ""


def _results(place: Place, words: list, out: Path) -> dict[str, float | None]:
    outcome = run(words, place.folder)
    if outcome.code:
        raise AttackFailed(f"exit code {outcome.code}: {outcome.end()}")
    return _numbers(out)


def _numbers(out: Path) -> dict[str, float | None]:
    """Returns the figures of results.json by task and name; the order of summation changes the last digits."""
    content = json.loads((out / "results.json").read_text())
    return {
        f"{task} {name}": None if value is None else round(value, 9)
        for task, values in content.items()
        for name, value in values.items()
    }

"""Kills every command at seeded moments; nothing but what was in hand is lost, and the next run completes."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from tiny_training import ROOT

from .attempts import Attempt, Place
from .complete_files import check_complete, leftovers, names_of
from .material import Material
from .processes import AttackFailed, Started, environment, run, wait_until

KILLS = 4  # of each command
TRAINING_KILLS = 20
KINDS = (signal.SIGKILL, signal.SIGTERM)
ROW = "Every command killed with SIGKILL and SIGTERM at random times, then run again"
# Files whose bytes do not depend on how often a command was started.
EQUAL = {
    "evaluate files": ("results.json", "images.csv"),
    "report": ("report_files/images/000004.js",),
    "demo": ("panoptic.json", "instances.json"),
    "demo onnx": ("panoptic.json",),
    "prepare": ("train/panoptic.json", "val/panoptic.json"),
    "import": ("panoptic.json",),
    "convert": ("out.pth",),
    "fuse": ("panoptic.json",),
}


def attempts(quick: bool) -> list[Attempt]:
    """Returns an attempt for each command; the kills of one command follow each other in one folder."""
    names = Material(Path()).commands(Path())
    if quick:
        return [Attempt(ROW, "fuse", partial(_kill_command, name="fuse", kills=1))]
    newest = ("report", "export", "tune", "tune files", "fuse", "import")
    order = [*newest, *(name for name in names if name not in (*newest, "train"))]
    found = [Attempt(ROW, name, partial(_kill_command, name=name, kills=KILLS)) for name in order]
    return [*found, Attempt(ROW, "train", _kill_training)]


def _kill_command(place: Place, name: str, kills: int) -> tuple[int, str]:
    rng = random.Random(f"{place.seed} {name}")
    reference, out = place.folder / "not_killed" / "out", place.folder / "out"  # one name: reports contain it
    reference.parent.mkdir()
    words = {}
    for folder in (reference, out):
        place.material.prepare_output(name, folder)
        words[folder] = place.material.commands(folder)[name]
    whole = run(words[reference], place.folder)
    if whole.code:
        raise AttackFailed(f"not killed, exit code {whole.code}: {whole.end()}")
    others = leftovers(reference, place.folder / "tmp")  # of libraries, also without a kill
    done, tries = 0, 0
    while done < kills and tries < 3 * kills:
        kind = KINDS[(done + tries) % 2]
        command = Started(words[out], place.folder / f"kill{tries}.log")
        tries += 1
        if rng.random() < 0.4:  # while a file is written
            time.sleep(rng.uniform(0, 0.6) * whole.seconds)
            wait_until(lambda: any(out.rglob(".*.partial")), command, 0.001)
        else:
            time.sleep(rng.uniform(0.1, 1.0) * whole.seconds)
        was_running = command.is_running()
        outcome = command.kill(kind)
        done += was_running
        if "Traceback" in outcome.err or (not was_running and outcome.code):
            raise AttackFailed(f"{kind.name} after {outcome.seconds:.1f} s: {outcome.end()}")
        check_complete(out)
    again = run(words[out], place.folder)
    if again.code:
        raise AttackFailed(f"run again after {done} kills, exit code {again.code}: {again.end()}")
    if left := set(leftovers(out, place.folder / "tmp")) - set(others):
        raise AttackFailed(f"left after the rerun: {sorted(left)[:5]}")
    check_complete(out)
    if missing := names_of(reference) ^ names_of(out):
        raise AttackFailed(f"files of only one of the two runs: {sorted(missing)[:5]}")
    for file in EQUAL.get(name, ()):
        if (reference / file).read_bytes() != (out / file).read_bytes():
            raise AttackFailed(f"{file} differs after the kills")
    return done, ""


def _kill_training(place: Place) -> tuple[int, str]:
    """Runs tools/kill_and_resume.py, which also checks at which iteration each start resumes."""
    command = [sys.executable, "-W", "ignore", str(ROOT / "tools" / "kill_and_resume.py"), "--output"]
    command += [str(place.folder / "run"), "--kills", str(TRAINING_KILLS), "--seed", str(place.seed)]
    done = subprocess.run(command, env=environment(place.folder), cwd=place.folder, capture_output=True, text=True)
    if done.returncode:
        raise AttackFailed(f"tools/kill_and_resume.py: {done.stderr[-600:]}")
    return TRAINING_KILLS, ""

"""Runs commands on a disk that fills up, a small tmpfs: one line, and the next run completes with space."""

from __future__ import annotations

import shutil
import subprocess
from functools import partial
from pathlib import Path

from .attempts import Attempt, Place
from .complete_files import check_complete, leftovers
from .processes import AttackFailed, Outcome, run

ROW = "A tmpfs that fills up, then the same command with space"
# KiB that the output of a whole run takes. The commands that tests/cli/test_full_disk_commands.py does not start.
WHOLE = {
    "report": 672, "export": 1244, "tune": 144, "tune files": 240, "fuse": 144, "train 2": 10_080, "report models": 748,
    "ablation": 12_388, "leaderboard": 13_488,
}  # fmt: skip
SHARES = (0.05, 0.4, 0.8)
# Commands that start others: those have their line in their own log, or before the last line of the command.
STARTERS = ("ablation", "leaderboard", "report models")


def attempts(quick: bool) -> list[Attempt]:
    """Returns an attempt for each command."""
    names = ["fuse"] if quick else list(WHOLE)
    return [Attempt(ROW, name, partial(_fill_disk, name=name)) for name in names if _may_mount()]


def _fill_disk(place: Place, name: str) -> tuple[int, str]:
    disk = place.folder / "disk"
    disk.mkdir()
    out, failures = disk / "out", 0
    words = place.material.commands(out)[name.removesuffix(" 2")]
    words = [words[0], "--num-gpus", 2, *words[1:]] if name.endswith(" 2") else words
    try:
        for share in SHARES:
            _mount(disk, int(share * WHOLE[name]))
            place.material.prepare_output(name, out)
            outcome = run(words, place.folder)
            failures += outcome.code != 0
            _check_failure(outcome, name)
            if out.is_dir():
                check_complete(out)
            if left := leftovers(disk):
                raise AttackFailed(f"left on the full disk: {left[:3]}")
            if share != SHARES[-1]:
                subprocess.run(["umount", "-l", str(disk)], check=True)
        if not failures:
            raise AttackFailed("the disk was never full: WHOLE is too large")
        subprocess.run(["mount", "-o", "remount,size=400m", str(disk)], check=True)
        outcome = run(words, place.folder)
        if outcome.code:
            raise AttackFailed(f"run again with space, exit code {outcome.code}: {outcome.end()}")
        check_complete(out)
    finally:
        subprocess.run(["umount", "-l", str(disk)], capture_output=True)
    return failures, ""


def _check_failure(outcome: Outcome, name: str) -> None:
    if not outcome.code:
        return
    if name in STARTERS:
        if "Traceback" in outcome.out + outcome.err or "No space left" not in outcome.out + outcome.err:
            raise AttackFailed(f"no line about the disk: {outcome.end()}")
    elif "No space left on device" not in (line := outcome.one_line()):
        raise AttackFailed(f"another error: {line}")


def _mount(folder: Path, kib: int) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)], check=True)


def _may_mount() -> bool:
    return (
        bool(shutil.which("unshare"))
        and not subprocess.run(
            ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True
        ).returncode
    )

"""Commands as processes of their own: started, killed, and followed to their last child."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tiny_training import ROOT

from panoptic_fusion.children import start_child

TIMEOUT = 300  # seconds after which a command hangs


class AttackFailed(Exception):
    """Error of a command that lost something, left something or did not end as promised."""


@dataclass(frozen=True)
class Outcome:
    """What a command did: its exit code (negative: the signal that ended it), its output and its time in seconds."""

    code: int
    out: str
    err: str
    seconds: float

    def one_line(self) -> str:
        """Returns the error, which must be the last line of stderr and the only one.

        Raises:
            AttackFailed: the command ended in another way.
        """
        lines = [line for line in self.err.splitlines() if "error: " in line]
        if self.code != 2 or "Traceback" in self.err or not lines or lines[-1] != self.err.rstrip("\n").split("\n")[-1]:
            raise AttackFailed(f"no single line of error, exit code {self.code}: {self.end()}")
        return lines[-1]

    def end(self) -> str:
        """Returns the end of the output, for a message."""
        return " | ".join((self.out[-300:] + self.err[-900:]).split("\n")[-12:])


class Started:
    """A command that runs in a session of its own, so that all of its processes can be found."""

    def __init__(self, words: Sequence[object], log: Path):
        """Starts the command.

        Args:
            words: command and arguments of `panoptic-fusion`.
            log: path to the output; `.err` is appended for stderr.
        """
        self.began = time.monotonic()
        self.paths = log, log.with_name(log.name + ".err")
        with self.paths[0].open("wb") as out, self.paths[1].open("wb") as err:
            self.process = start_child(
                command_line(words), env=environment(log.parent), cwd=log.parent, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=out, stderr=err,
            )  # fmt: skip

    def wait(self, timeout: float = TIMEOUT) -> Outcome:
        """Waits for the end.

        Raises:
            AttackFailed: the command hangs, or one of its processes outlives it.
        """
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.end_all()
            raise AttackFailed(f"no end after {timeout} s: {self._outcome(0).end()}") from None
        seconds = time.monotonic() - self.began
        orphans = self.orphans()
        self.end_all()
        outcome = self._outcome(seconds, code)
        if orphans:
            raise AttackFailed(f"processes outlive the command: {orphans}: {outcome.end()}")
        return outcome

    def kill(self, kind: signal.Signals) -> Outcome:
        """Sends a signal to the command alone, not to its processes; see `wait`."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(kind)
        return self.wait(30)

    def is_running(self) -> bool:
        """Returns whether the command has not ended."""
        return self.process.poll() is None

    def children(self) -> list[int]:
        """Returns the ids of all processes of the command but the first."""
        return [pid for pid in session(self.process.pid) if pid != self.process.pid]

    def orphans(self, patience: float = 5) -> list[str]:
        """Returns the command lines of processes that outlive the command by `patience` seconds."""
        end = time.monotonic() + patience
        while (left := self.children()) and time.monotonic() < end:
            time.sleep(0.05)
        return [_name(pid) for pid in left]

    def end_all(self) -> None:
        """Kills the command and everything that it started."""
        for pid in session(self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def _outcome(self, seconds: float, code: int = -1) -> Outcome:
        out, err = (path.read_text(errors="replace") for path in self.paths)
        return Outcome(code, out, err, seconds)


def run(words: Sequence[object], folder: Path) -> Outcome:
    """Runs a command to its end; its output is kept in `folder`."""
    log = folder / f"{words[0]}.{time.monotonic_ns()}.log"
    return Started(words, log).wait()


def wait_until(happened: Callable[[], bool], command: Started, pause: float = 0.01, timeout: float = TIMEOUT) -> bool:
    """Waits for an event while a command runs; returns whether it happened."""
    end = time.monotonic() + timeout
    while not happened():
        if not command.is_running() or time.monotonic() > end:
            return False
        time.sleep(pause)
    return True


def command_line(words: Sequence[object]) -> list[str]:
    """Returns the command that runs `panoptic-fusion WORDS` with this interpreter."""
    return [sys.executable, "-W", "ignore", "-m", "panoptic_fusion", *map(str, words)]


def environment(folder: Path) -> dict[str, str]:
    """Returns the environment of commands: this working tree, one thread, no GPU, temporary files in `folder`/tmp."""
    (folder / "tmp").mkdir(exist_ok=True)
    own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "TMPDIR": str(folder / "tmp")}
    return {**os.environ, **own}


def session(leader: int) -> list[int]:
    """Returns the ids of the running processes of a session, zombies left out."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, *numbers = stat.read_text().rpartition(")")[2].split()[:4]
            if int(numbers[2]) == leader and state not in "ZX":
                found.append(int(stat.parent.name))
    return found


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:200]
    return str(pid)

"""Commands in forks of this process, which has imported everything: hundreds of short attempts."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from panoptic_fusion.cli import main

from .processes import AttackFailed, Outcome, session


def call(words: Sequence[object], folder: Path, timeout: float = 180) -> Outcome:
    """Runs `panoptic-fusion WORDS` in a fork.

    Raises:
        AttackFailed: it hangs.
    """
    return fork(lambda: main(list(map(str, words))), folder, timeout, " ".join(map(repr, words[:4])))


def fork(function: Callable[[], object], folder: Path, timeout: float, what: str) -> Outcome:
    """Runs a function in a fork and returns its exit code, its output and the text of its exception."""
    began, paths = time.monotonic(), (folder / "fork.out", folder / "fork.err")
    pid = os.fork()
    if pid == 0:
        code = 0
        os.setsid()
        for number, path in enumerate(paths, start=1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
        os.chdir(folder)
        try:
            function()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(bool(end.code))
        except BaseException:
            traceback.print_exc()
            code = 70
        sys.stdout.flush()
        os._exit(code)
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        seconds = time.monotonic() - began
        if ended or seconds > timeout:
            break
        time.sleep(0.01)
    for other in session(pid):
        os.kill(other, signal.SIGKILL)
    if not ended:
        os.waitpid(pid, 0)
        raise AttackFailed(f"no end after {timeout:.0f} s: {what}: {paths[1].read_text(errors='replace')[-300:]}")
    out, err = (path.read_text(errors="replace") for path in paths)
    return Outcome(os.waitstatus_to_exitcode(status), out, err, seconds)

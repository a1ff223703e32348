"""Child processes that end together with their parent, however it ends."""

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Sequence
from typing import Any

PARENT_VARIABLE = "PANOPTIC_FUSION_PARENT"  # id of the process that a child must not outlive


def start_child(command: Sequence[str], **options: Any) -> subprocess.Popen:
    """Starts a command; if it calls `end_with_parent`, it ends with this process, even if this process is killed.

    Args:
        command: program and arguments.
        options: forwarded to `subprocess.Popen`; `env` defaults to the environment of this process.
    """
    env = {**(options.pop("env", None) or os.environ), PARENT_VARIABLE: str(os.getpid())}
    return subprocess.Popen(command, env=env, **options)


def run_child(command: Sequence[str], **options: Any) -> int:
    """Runs a command like `start_child` and returns its exit code; an exception in this process ends the child."""
    process = start_child(command, **options)
    try:
        return process.wait()
    except BaseException:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()
        raise


def end_with_parent() -> None:
    """Makes this process end when its parent ends. Has no effect if `start_child` did not start this process."""
    parent = os.environ.pop(PARENT_VARIABLE, "")
    if parent.isdigit():
        exit_with(int(parent))


def exit_with(parent: int, interval: float = 0.2) -> None:
    """Starts a thread that ends this process as soon as its parent is no longer `parent`."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(interval)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

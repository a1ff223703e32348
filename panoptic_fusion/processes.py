"""One process per folder, and no child process without its parent."""

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import UserError

LOCK_NAME = ".lock"
PARENT_VARIABLE = "PANOPTIC_FUSION_PARENT"  # id of the process that a child must not outlive


@contextlib.contextmanager
def locked_folder(folder: str | os.PathLike, what: str, *, patience: float = 5.0) -> Iterator[None]:
    """Holds the lock of a folder; the operating system releases it when the process ends, however it ends.

    Args:
        folder: an existing folder; gets a file `.lock`, which stays.
        what: names the folder in the error, such as "OUTPUT_DIR output/toy".
        patience: seconds to wait for the processes of a killed run to end.

    Raises:
        UserError: another process holds the lock.
    """
    lock = FileLock(Path(folder) / LOCK_NAME, timeout=patience, poll_interval=0.1)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"{what} is in use by another run. Wait until it ends, or choose a different folder.") from None
    try:
        yield
    finally:
        lock.release()


def run_child(command: Sequence[str], **options) -> int:
    """Runs a command that ends with this process, and returns its exit code.

    Args:
        command: program and arguments. A child that calls `end_with_parent` ends within a second of this process, even
            if this process is killed.
        options: forwarded to `subprocess.Popen`; `env` defaults to the environment of this process.
    """
    env = {**(options.pop("env", None) or os.environ), PARENT_VARIABLE: str(os.getpid())}
    process = subprocess.Popen(command, env=env, **options)
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
    """Ends this process when the one that started it by `run_child` is gone; does nothing in other processes."""
    parent = os.environ.pop(PARENT_VARIABLE, "")
    if parent.isdigit():
        exit_with(int(parent))


def exit_with(parent: int, interval: float = 0.2) -> None:
    """Starts a thread that ends this process as soon as its parent is another one than `parent`."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(interval)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

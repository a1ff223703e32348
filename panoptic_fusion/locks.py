"""Locks of folders: one run at a time writes into each."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import UserError

LOCK_NAME = ".lock"


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

"""Locks of folders: only one run at a time writes to a folder."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import UserError
from .files import remove_partial_files

LOCK_NAME = ".lock"


@contextlib.contextmanager
def locked_folder(folder: str | os.PathLike, what: str, *, patience: float = 5.0) -> Iterator[None]:
    """Holds the lock of a folder; the operating system releases it when the process ends, however it ends.

    Partially written files that killed runs left in the folder are removed.

    Args:
        folder: an existing folder; a file `.lock` is created in it and kept.
        what: name of the folder in the error, such as "OUTPUT_DIR output/toy".
        patience: time in seconds to wait for the processes of a killed run to end.

    Raises:
        UserError: if another process holds the lock.
    """
    lock = FileLock(Path(folder) / LOCK_NAME, timeout=patience, poll_interval=0.1)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"{what} is in use by another run. Wait until it ends, or choose a different folder.") from None
    try:
        remove_partial_files(folder)
        yield
    finally:
        lock.release()

"""Locks of folders and files: only one run at a time writes to each."""

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
        folder: existing folder; a file `.lock` is created in it and kept.
        what: name of the folder in the error, such as "OUTPUT_DIR output/toy".
        patience: time in seconds to wait for the processes of a killed run to end.

    Raises:
        UserError: if another process holds the lock.
    """
    with _held(Path(folder) / LOCK_NAME, what, patience):
        remove_partial_files(folder)
        yield


@contextlib.contextmanager
def locked_file(path: str | os.PathLike, *, patience: float = 5.0) -> Iterator[None]:
    """Holds the lock of a file that may be written, removed and not exist, as `locked_folder` does of a folder.

    Args:
        path: path to the file, in an existing folder. A file `.NAME.lock` is created next to it and kept.
        patience: as of `locked_folder`.

    Raises:
        UserError: another process holds the lock.
    """
    path = Path(path)
    with _held(path.with_name(f".{path.name}{LOCK_NAME}"), str(path), patience):
        yield


@contextlib.contextmanager
def _held(path: Path, what: str, patience: float) -> Iterator[None]:
    lock = FileLock(path, timeout=patience, poll_interval=0.1)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"{what} is in use by another run. Wait until it ends, or choose a different folder.") from None
    try:
        yield
    finally:
        lock.release()

"""Names and files: written whole or not at all, whenever the process is killed; names that are not taken yet."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import io
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from .errors import DISK_ERRORS, DiskError, UserError

if TYPE_CHECKING:
    import numpy as np


class _Raw(io.FileIO):
    """A file that keeps the error of a write: torch and other C++ code report it without its number."""

    error: OSError | None = None

    def write(self, data) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.error = error
            raise


def write_atomically(path: str | os.PathLike, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file such that `path` is either the old one or the whole new one.

    Args:
        path: the file; its folder must exist.
        write: called with a file object opened for writing bytes.

    Raises:
        DiskError: the disk is full, over quota or read-only; `path` is as it was.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    raw = None
    try:
        try:
            raw = _Raw(partial, "w")
            with io.BufferedWriter(raw) as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except Exception as error:
            cause = getattr(raw, "error", None) or error
            if isinstance(cause, OSError) and cause.errno in DISK_ERRORS:
                raise DiskError.of(cause, path) from error
            raise
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def remove_partial_files(folder: str | os.PathLike) -> None:
    """Removes what killed processes of this machine were writing into a folder by `write_atomically`."""
    for file in Path(folder).glob(".*.partial"):
        number = re.fullmatch(r"\..+\.(\d+)\.partial", file.name)
        if number and not _is_running(int(number[1])):
            with contextlib.suppress(OSError):
                file.unlink()


@contextlib.contextmanager
def temporary_folder(prefix: str, parent: str | os.PathLike | None = None) -> Iterator[Path]:
    """Makes a folder that is removed at the end, and removes those of killed processes of this machine.

    Args:
        prefix: start of its name; the process's number and random letters follow.
        parent: the folder to make it in; default: the system's for temporary files.
    """
    parent = Path(parent or tempfile.gettempdir())
    for folder in parent.glob(f"{glob.escape(prefix)}*"):
        number = re.match(r"(\d+)\.", folder.name[len(prefix) :])
        if number and not _is_running(int(number[1])):
            shutil.rmtree(folder, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}.", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def write_image(path: str | os.PathLike, rgb: np.ndarray) -> None:
    """Writes an (H, W, 3) uint8 RGB image by `write_atomically`, in the format of the suffix."""
    import cv2

    path = Path(path)
    good, data = cv2.imencode(path.suffix, rgb[:, :, ::-1])
    if not good:
        raise UserError(f"{path}: OpenCV cannot write an image of {rgb.shape[1]}x{rgb.shape[0]} pixels in this format")
    write_atomically(path, lambda file: file.write(data.tobytes()))


def write_json(path: str | os.PathLike, content: Any, **options) -> None:
    """Writes a json file by `write_atomically`; `options` are those of json.dumps."""
    write_atomically(path, lambda file: file.write(json.dumps(content, **options).encode()))


def without_nan(content: Any) -> Any:
    """Mappings and numbers with None for NaN, which json does not have."""
    if isinstance(content, Mapping):
        return {key: without_nan(value) for key, value in content.items()}
    return None if isinstance(content, float) and math.isnan(content) else content


def unused_name(stem: str, used: set[str]) -> str:
    """`stem`, with a number if an earlier file of the same name took it; adds the result to `used`."""
    name, number = stem, 1
    while name in used:
        number += 1
        name = f"{stem}_{number}"
    used.add(name)
    return name


def safe_name(text: str) -> str:
    """Returns `text` as the name of one file or folder; different texts give different names.

    A name is kept if it is up to 100 letters, digits, spaces, "_", "-" and "." that neither begin with a dot nor begin
    or end with a space. Otherwise what does not fit becomes "_", and part of the SHA-1 of the text is appended. So no
    name leads out of its folder, and "a/b" and "a_b" stay apart.
    """
    if re.fullmatch(r"(?![. ])[\w .-]{1,100}(?<! )", text):
        return text
    kept = re.sub(r"[^\w.-]", "_", text)[:80].lstrip(".")
    return f"{kept}-{hashlib.sha1(text.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"

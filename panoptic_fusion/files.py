"""Atomic writing of files, even if the process is killed, and unused or safe file names."""

from __future__ import annotations

import contextlib
import functools
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

from .errors import DISK_ERRORS, ConfigError, DiskError, UserError

if TYPE_CHECKING:
    import numpy as np


class _Raw(io.FileIO):
    """File that keeps the error of a write, because torch and other C++ code report it without its number."""

    error: OSError | None = None

    def write(self, data) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.error = error
            raise


def write_atomically(path: str | os.PathLike, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file atomically: `path` is either the old or the complete new file.

    What killed processes of this machine left of the same file is removed.

    Args:
        path: path to the file; its folder must exist.
        write: function that is called with a file object opened for writing bytes.

    Raises:
        DiskError: if the disk is full, over quota or read-only; `path` does not change.
    """
    path = Path(path)
    name = _short(path.name)
    partial = path.with_name(f".{name}.{os.getpid()}.partial")
    raw = None
    try:
        try:
            raw = _Raw(partial, "w")
            with io.BufferedWriter(raw) as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
            for left in _left_in(path.parent).pop(name, ()):
                with contextlib.suppress(OSError):
                    left.unlink()
        except Exception as error:
            cause = getattr(raw, "error", None) or error
            if isinstance(cause, OSError) and cause.errno in DISK_ERRORS:
                raise DiskError.of(cause, path) from error
            raise
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _short(name: str) -> str:
    """Returns the name of a file, or its hash if a partial file with this name would exceed 255 bytes."""
    encoded = os.fsencode(name)
    return name if len(encoded) <= 220 else hashlib.sha1(encoded).hexdigest()


def remove_partial_files(folder: str | os.PathLike) -> None:
    """Removes partial files that killed processes of this machine left in a folder during `write_atomically`."""
    for _, file in _partial_files(Path(folder)):
        with contextlib.suppress(OSError):
            file.unlink()


def _partial_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yields the partial files of killed processes in a folder, each with `_short` of the name that it was to get."""
    for file in folder.glob(".*.partial"):
        found = re.fullmatch(r"\.(.+)\.(\d+)\.partial", file.name, re.DOTALL)
        if found and not _is_running(int(found[2])):
            yield found[1], file


@functools.cache
def _left_in(folder: Path) -> dict[str, list[Path]]:
    """Returns the partial files of killed processes when this process first writes to a folder, which is listed once.

    `write_atomically` removes those of its own file only. Other processes, possibly of another machine, may be writing
    the others.
    """
    found: dict[str, list[Path]] = {}
    for name, file in _partial_files(folder):
        found.setdefault(name, []).append(file)
    return found


@contextlib.contextmanager
def temporary_folder(prefix: str, parent: str | os.PathLike | None = None) -> Iterator[Path]:
    """Creates a folder and removes it at the end; also removes such folders of killed processes of this machine.

    Args:
        prefix: start of its name; the process id and random letters follow.
        parent: folder to create it in; default: the system's folder for temporary files.
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
        return True
    with contextlib.suppress(OSError, IndexError):  # Linux: a killed process that its parent has not yet collected
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return True


def check_writable(folder: str, key: str = "OUTPUT_DIR") -> None:
    """Checks that a folder can be created or written to, and leaves no trace, so a refused start creates no folder.

    Args:
        folder: path to the folder; it need not exist.
        key: config key or option that named the folder, for the error.

    Raises:
        ConfigError: if the folder cannot be created or written to.
    """
    existing = Path(folder).absolute()
    while not os.path.lexists(existing):
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise ConfigError(f"{key}: cannot write to {folder} ({error.strerror}): choose another folder") from error


def file_state(path: str | os.PathLike) -> list[int] | None:
    """Returns [size in bytes, modification time in ns], which change with a file's content; None if it is missing."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


def write_image(path: str | os.PathLike, rgb: np.ndarray, jpeg_quality: int = 95, max_bytes: float = math.inf) -> None:
    """Writes an image with `write_atomically`, in the format of the suffix.

    Args:
        path: path to the file.
        rgb: (H, W, 3) uint8 RGB, or (H, W, 4) uint8 RGB and alpha.
        jpeg_quality: quality of a .jpg, 0 to 100.
        max_bytes: size that a .jpg should not exceed; its quality is lowered in steps of 10, not below 25.

    Raises:
        UserError: if the format cannot store an image of this size.
    """
    import cv2

    path = Path(path)
    bgr = rgb[:, :, ::-1] if rgb.shape[2] == 3 else rgb[:, :, [2, 1, 0, 3]]
    for quality in range(jpeg_quality, min(jpeg_quality, 25) - 1, -10):
        options = [cv2.IMWRITE_JPEG_QUALITY, quality] if path.suffix == ".jpg" else []
        good, data = cv2.imencode(path.suffix, bgr, options)
        if not good:
            size = f"{rgb.shape[1]}x{rgb.shape[0]}"
            raise UserError(f"{path}: OpenCV cannot write an image of {size} pixels in this format")
        if len(data) <= max_bytes or not options:
            break
    write_atomically(path, lambda file: file.write(data.tobytes()))


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text as UTF-8 with `write_atomically`.

    File names that are not UTF-8 are text with lone surrogates, which UTF-8 cannot store; they are escaped (`\\udcff`).
    """
    write_atomically(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))


def write_json(path: str | os.PathLike, content: Any, **options) -> None:
    """Writes a JSON file with `write_atomically`; `options` are forwarded to json.dumps."""
    write_atomically(path, lambda file: file.write(json.dumps(content, **options).encode()))


def without_nan(content: Any) -> Any:
    """Returns nested mappings, lists and numbers with None instead of NaN, which JSON does not support."""
    if isinstance(content, Mapping):
        return {key: without_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [without_nan(value) for value in content]
    return None if isinstance(content, float) and math.isnan(content) else content


def unused_name(stem: str, used: set[str]) -> str:
    """Returns `stem`, with a number appended if it is in `used`; adds the result to `used`."""
    name, number = stem, 1
    while name in used:
        number += 1
        name = f"{stem}_{number}"
    used.add(name)
    return name


def safe_name(text: str) -> str:
    """Returns `text` as the name of one file or folder; different texts give different names.

    A name is kept if it consists of letters, digits, spaces, "_", "-" and ".", has up to 100 bytes in UTF-8, does not
    begin with a dot, and neither begins nor ends with a space. Otherwise it is cut off, invalid characters are replaced
    by "_", and part of the SHA-1 of the text is appended. Therefore no name leads out of its folder, "a/b" and "a_b"
    remain different, and two names fit into one file name.
    """
    if re.fullmatch(r"(?![. ])[\w .-]+(?<! )", text) and len(text.encode()) <= 100:
        return text
    kept = re.sub(r"[^\w.-]", "_", text).encode()[:80].decode("utf-8", "ignore").lstrip(".")
    return f"{kept}-{hashlib.sha1(text.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"

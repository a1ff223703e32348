"""JSON file that grows by one entry at a time and is valid after each, even if the process is killed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from .errors import DISK_ERRORS, DiskError
from .files import write_atomically

_END = b"\n]}\n"


class GrowingJson:
    """Writer of {**content, key: [entry, ...]}; the cost of an entry does not depend on the number of entries.

    A single write replaces the end of the file by the entry and a new end. A killed process therefore leaves the file
    as it was either before or after this write. If the disk is full, the file is truncated to the previous entry.
    """

    def __init__(self, path: str | os.PathLike, content: dict[str, Any], key: str):
        """Creates the file with an empty list.

        Args:
            path: path to the file; an existing file is replaced.
            content: content before the list.
            key: key of the list.

        Raises:
            DiskError: if the disk is full.
        """
        self.path = Path(path)
        start = f"{json.dumps(content)[:-1]}{', ' if content else ''}{json.dumps(key)}: [".encode()
        write_atomically(self.path, lambda file: file.write(start + _END))
        self._file = os.open(self.path, os.O_RDWR)
        self._size = len(start)  # size without the end
        self._first = True

    def append(self, entry: Any) -> None:
        """Adds an entry.

        Raises:
            DiskError: if the disk is full; the file contains the previous entries.
        """
        text = f"{'' if self._first else ','}\n{json.dumps(entry)}".encode()
        try:
            written = os.pwrite(self._file, text + _END, self._size)
            if written < len(text + _END):
                os.pwrite(self._file, (text + _END)[written:], self._size + written)
        except OSError as error:
            os.pwrite(self._file, _END, self._size)  # in place, which needs no space
            os.ftruncate(self._file, self._size + len(_END))
            if error.errno in DISK_ERRORS:
                raise DiskError.of(error, self.path) from error
            raise
        self._size += len(text)
        self._first = False

    def __enter__(self) -> GrowingJson:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._file)

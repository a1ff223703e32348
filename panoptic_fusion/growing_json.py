"""JSON file whose lists grow together and that is valid after each entry, even if the process is killed."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from .errors import DISK_ERRORS, DiskError
from .files import write_atomically

_ROOM = 2048  # minimum number of bytes of spaces that a file keeps for the entries of each list but the last
_END = b"\n]}\n"
_PIECE = 2**20  # bytes that are copied at a time


class GrowingJson:
    """Writer of {**content, key: [entry, ...], key: [entry, ...]}, whose lists grow together.

    The last list ends the file and grows with it. Each list before it is followed by spaces, which its entries replace.
    When the spaces run out, the file is written again with twice the size of its entries as room. The cost of an entry
    therefore does not depend on the number of entries, on average. A file that is closed without an error keeps no
    spaces.

    A single write adds the entries of a list. A killed process leaves the file as it was either before or after this
    write: at most, an earlier list has entries that belong to entries that the later ones lack. If the disk is full,
    the file keeps the previous entries.
    """

    def __init__(self, path: str | os.PathLike, content: Mapping[str, Any], keys: Sequence[str]):
        """Creates the file with empty lists.

        Args:
            path: path to the file; an existing file is replaced.
            content: content before the lists.
            keys: keys of the lists, at least one.

        Raises:
            DiskError: if the disk is full.
        """
        self.path = Path(path)
        self._file = -1
        self._keys = list(keys)
        start = (json.dumps(content)[:-1] + (", " if content else "")).encode()
        names = [f"{json.dumps(key)}: [".encode() for key in keys]
        self._heads = [start + names[0], *(b"\n], " + name for name in names[1:])]  # text before each list
        self._ends = [0] * len(names)  # position in the file after the entries of each list
        self._sizes = [0] * len(names)  # bytes of the entries of each list
        self._rewrite([_ROOM] * (len(names) - 1))

    def append(self, *entries: Any) -> None:
        """Adds one entry to each list; see `extend`."""
        self.extend(*([entry] for entry in entries))

    def extend(self, *lists: Iterable[Any]) -> None:
        """Adds any number of entries to each list.

        Raises:
            DiskError: if the disk is full; the file contains the previous entries.
        """
        if len(lists) != len(self._keys):
            raise ValueError(f"{len(lists)} entries for the lists {', '.join(self._keys)}")
        texts = [",".join(f"\n{json.dumps(entry)}" for entry in entries).encode() for entries in map(list, lists)]
        texts = [b"," + text if text and size else text for text, size in zip(texts, self._sizes, strict=True)]
        if any(len(text) > room for text, room in zip(texts, self._rooms, strict=False)):
            self._rewrite([max(_ROOM, len(text), size) for text, size in zip(texts, self._sizes, strict=True)][:-1])
        done = 0
        try:
            for text, end in zip(texts[:-1], self._ends, strict=False):
                self._put(text, end)
                done += 1
            self._put(texts[-1] + _END, self._ends[-1])
        except OSError as error:  # what follows is in place, which needs no space
            os.pwrite(self._file, _END, self._ends[-1])
            os.ftruncate(self._file, self._ends[-1] + len(_END))
            for text, end in zip(texts[:-1][: done + 1], self._ends, strict=False):
                os.pwrite(self._file, b" " * len(text), end)
            if error.errno in DISK_ERRORS:
                raise DiskError.of(error, self.path) from error
            raise
        self._ends = [end + len(text) for end, text in zip(self._ends, texts, strict=True)]
        self._sizes = [size + len(text) for size, text in zip(self._sizes, texts, strict=True)]
        self._rooms = [room - len(text) for room, text in zip(self._rooms, texts, strict=False)]

    def _rewrite(self, rooms: Sequence[int]) -> None:
        """Writes the file again with `rooms` bytes of spaces after each list but the last."""
        spaces, ends = [*rooms, 0], []

        def write(file: BinaryIO) -> None:
            for head, end, size, room in zip(self._heads, self._ends, self._sizes, spaces, strict=True):
                file.write(head)
                for position in range(end - size, end, _PIECE):
                    file.write(os.pread(self._file, min(_PIECE, end - position), position))
                ends.append(file.tell())
                file.write(b" " * room)
            file.write(_END)

        write_atomically(self.path, write)
        self._close()
        self._file = os.open(self.path, os.O_RDWR)
        self._ends, self._rooms = ends, list(rooms)

    def _put(self, data: bytes, place: int) -> None:
        """Writes bytes at a place of the file; a second write tells why a first one was cut short."""
        written = os.pwrite(self._file, data, place)
        if written < len(data):
            os.pwrite(self._file, data[written:], place + written)

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> GrowingJson:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            with contextlib.suppress(DiskError):  # the file is complete, only longer
                self._rewrite([0] * len(self._rooms))
        self._close()

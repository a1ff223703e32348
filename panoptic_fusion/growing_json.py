"""JSON file whose lists grow together and that is valid after each entry, even if the process is killed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from .errors import DISK_ERRORS, DiskError
from .files import write_atomically

_ROOM = 2048  # bytes of spaces that the new file keeps for the entries of each list but the last
_END = b"\n]}\n"


class GrowingJson:
    """Writer of {**content, key: [entry, ...], key: [entry, ...]}, whose lists have the same length.

    The last list ends the file and grows with it. Each list before it is followed by spaces, which its entries replace.
    When the spaces run out, the file is written again with twice the size of its entries as room. The cost of an entry
    therefore does not depend on the number of entries, on average.

    A single write adds the entry of a list. A killed process leaves the file as it was either before or after this
    write: at most, an earlier list has an entry that the later ones lack. If the disk is full, the file keeps the
    previous entries.
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
        self._keys = list(keys)
        self._file = -1
        self._write({**content, **{key: [] for key in keys}})

    def append(self, *entries: Any) -> None:
        """Adds one entry to each list.

        Raises:
            DiskError: if the disk is full; the file contains the previous entries.
        """
        if len(entries) != len(self._keys):
            raise ValueError(f"{len(entries)} entries for the lists {', '.join(self._keys)}")
        texts = [f"{',' if self._count else ''}\n{json.dumps(entry)}".encode() for entry in entries]
        if any(len(text) > room for text, room in zip(texts, self._rooms, strict=False)):
            self._write(json.loads(self.path.read_bytes()), max(map(len, texts)))
        done = 0
        try:
            for text, place in zip(texts[:-1], self._places, strict=False):
                self._put(text, place)
                done += 1
            self._put(texts[-1] + _END, self._places[-1])
        except OSError as error:  # what follows is in place, which needs no space
            os.pwrite(self._file, _END, self._places[-1])
            os.ftruncate(self._file, self._places[-1] + len(_END))
            for text, place in zip(texts[:-1][: done + 1], self._places, strict=False):
                os.pwrite(self._file, b" " * len(text), place)
            if error.errno in DISK_ERRORS:
                raise DiskError.of(error, self.path) from error
            raise
        self._places = [place + len(text) for place, text in zip(self._places, texts, strict=True)]
        self._rooms = [room - len(text) for room, text in zip(self._rooms, texts, strict=False)]
        self._count += 1

    def _write(self, content: dict[str, Any], least: int = _ROOM) -> None:
        """Writes the file with new room: at least `least` bytes per list, and as much as its entries take."""
        first = {key: value for key, value in content.items() if key not in self._keys}
        data = (json.dumps(first)[:-1] + (", " if first else "")).encode()
        places, rooms = [], []
        for key in self._keys:
            entries = ",".join(f"\n{json.dumps(entry)}" for entry in content[key]).encode()
            data += f"{json.dumps(key)}: [".encode() + entries
            places.append(len(data))
            if key != self._keys[-1]:
                rooms.append(max(least, _ROOM, len(entries)))
                data += b" " * rooms[-1] + b"\n], "
        write_atomically(self.path, lambda file: file.write(data + _END))
        self._close()
        self._file = os.open(self.path, os.O_RDWR)
        self._places, self._rooms, self._count = places, rooms, len(content[self._keys[-1]])

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
        self._close()

"""What can be wrong with a data set: one error class, raised in training and collected by `panoptic-fusion check`.

Everything that reads a data set takes a `report`, called with each fault found. The default, `raise_fault`, stops at
the first one that matters; the checker passes a function that collects, after which reading goes on with what is left.
"""

from __future__ import annotations

from collections.abc import Callable

from ..errors import UserError

# Every kind of fault, in the order of a report.
KINDS = (
    "missing file",
    "corrupt json",
    "missing list in json",
    "bad category",
    "no thing class",
    "too many classes",
    "needs another ontology",
    "no image",
    "bad image entry",
    "duplicate image id",
    "image listed twice",
    "bad annotation entry",
    "duplicate annotation",
    "annotation without image",
    "image without annotation",
    "shared PNG",
    "bad segment entry",
    "segment id 0",
    "duplicate segment id",
    "unknown category",
    "crowd stuff",
    "several stuff segments of a class",
    "missing image",
    "corrupt image",
    "unsupported image",
    "dark 16-bit image",
    "wrong image size",
    "stored orientation",
    "unclear orientation",
    "mixed orientation",
    "missing PNG",
    "corrupt PNG",
    "PNG not RGB",
    "wrong PNG size",
    "id without segment",
    "segment without pixel",
    "only void",
    "area mismatch",
    "bbox mismatch",
    "bad instance entry",
    "duplicate instance id",
    "instance without image",
    "instance of unknown category",
    "instance of wrong size",
    "instance without pixel",
    "unexpected error",
)

# Those with which a dataset can be trained and evaluated: areas and boxes are recomputed, several segments of a stuff
# class are one label in training (and each counts in evaluation), images without an annotation are left out or serve
# as negatives, an image that is listed twice counts twice, and without thing classes a semantic network is trained.
MINOR_KINDS = frozenset(
    {
        "no thing class",
        "needs another ontology",
        "image listed twice",
        "image without annotation",
        "several stuff segments of a class",
        "dark 16-bit image",
        "stored orientation",
        "unclear orientation",
        "area mismatch",
        "bbox mismatch",
    }
)


class DatasetError(UserError):
    """A fault of a data set: `kind` is one of `KINDS`, `file` the file at fault; the message names file and fault."""

    def __init__(self, message: str, file: str = "", kind: str = "") -> None:
        # A DataLoader worker's error is made anew in the main process from one text that holds the worker's traceback:
        # keep the last line, the message.
        message = message.rsplit(f"{__name__}.DatasetError: ", 1)[-1].rsplit("\nDatasetError: ", 1)[-1].strip()
        super().__init__(f"{file}: {message}" if file else message)
        self.file = file
        self.kind = kind

    def __reduce__(self) -> tuple:
        return _rebuild, (str(self), self.file, self.kind)


def _rebuild(text: str, file: str, kind: str) -> DatasetError:
    error = DatasetError(text)
    error.file, error.kind = file, kind
    return error


Report = Callable[[DatasetError], None]


def raise_fault(error: DatasetError) -> None:
    """The default `report`: raises the fault, unless it is one of `MINOR_KINDS`."""
    if error.kind not in MINOR_KINDS:
        raise error

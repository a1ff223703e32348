"""Errors of datasets: one class, raised in training and collected by `panoptic-fusion check`.

All code that reads a dataset takes a `report` function, called with each error found. The default, `raise_error`, stops
at the first error that matters. The checker passes a function that collects errors, and reading continues with the
remaining data.
"""

from __future__ import annotations

from collections.abc import Callable

from ..errors import UserError

# All kinds of errors, in the order of a report.
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
    "too many pixels",
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

# Kinds that do not prevent training and evaluation: areas and boxes are recomputed, several segments of a stuff class
# are one label in training (and each counts in evaluation), images without an annotation are left out or serve as
# negatives, an image that is listed twice counts twice, and without thing classes a semantic network is trained.
WARNING_KINDS = frozenset(
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
    """Error of a dataset: `kind` is one of `KINDS`, `file` the affected file; the message names file and problem."""

    def __init__(self, message: str, file: str = "", kind: str = "") -> None:
        # The DataLoader re-raises a worker's exception with the formatted traceback as its message; keep only the last
        # line, the original message.
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


def raise_error(error: DatasetError) -> None:
    """Raises the error, unless it is one of `WARNING_KINDS`; the default `report`."""
    if error.kind not in WARNING_KINDS:
        raise error

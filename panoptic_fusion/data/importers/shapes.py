"""The common form of all annotation formats: a data set of items, each an image with shapes.

A reader of a format makes a `Dataset` of a folder. Its `read` turns one item into an `ImageAnnotation`; that runs in
several processes, one item at a time.
"""

from __future__ import annotations

import binascii
import math
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from ..faults import DatasetError
from .masks import FILL, Crop, clip_crop, merge_crops, tight_crop

ORDERS = ("z", "annotation", "smaller-in-front")
# Labels that mean "not labeled" and "do not count these pixels", in the words of labelme, ISAT and the data sets.
UNLABELED_NAMES = frozenset({"_background_", "__background__", "unlabeled", "unlabelled"})
IGNORED_NAMES = frozenset({"__ignore__", "ignore", "ignored", "void"})


@dataclass(frozen=True)
class Polygon:
    """Areas: `parts` is a list of polygons, each a list of rings (N, 2); `fill` is a key of `FILL`."""

    parts: Sequence[Sequence[np.ndarray]]
    fill: str = "area"

    def crop(self, height: int, width: int) -> Crop:
        return merge_crops([FILL[self.fill](rings, height, width) for rings in self.parts])

    def bounds(self, height: int, width: int) -> tuple[float, float, float, float]:
        """Left, top, right and bottom."""
        points = np.concatenate([ring for rings in self.parts for ring in rings])
        return (*points.min(0).tolist(), *points.max(0).tolist())


@dataclass(frozen=True)
class Mask:
    """Pixels, decoded when they are first needed: `decode(height, width)` returns a crop, which may leave the image."""

    decode: Callable[[int, int], Crop]

    def crop(self, height: int, width: int) -> Crop:
        crop = clip_crop(self.decode(height, width), height, width)
        return tight_crop(*crop)

    def bounds(self, height: int, width: int) -> tuple[float, float, float, float]:
        """Left, top, right and bottom."""
        crop = self.crop(height, width)
        return crop.left, crop.top, crop.left + crop.mask.shape[1], crop.top + crop.mask.shape[0]


@dataclass
class Shape:
    """One drawn area.

    Attributes:
        label: the class.
        geometry: a `Polygon` or `Mask`.
        name: how a message calls it, such as "shapes[3]".
        z: order of drawing, higher is in front; used if the order is "z".
        group: shapes of an image with equal label and group are one object; None stands alone.
        crowd: whether it covers several objects.
        isbox: whether it is a box, which `boxes="skip"` leaves out.
        semantic: whether it is all of a class in the image instead of one object; a thing class is then split into
            connected components.
    """

    label: str
    geometry: Polygon | Mask
    name: str
    z: float = 0.0
    group: Hashable = None
    crowd: bool = False
    isbox: bool = False
    semantic: bool = False

    def __post_init__(self) -> None:
        if not math.isfinite(self.z):
            raise ValueError(f"its order is {self.z}, not a finite number")


@dataclass
class ImageAnnotation:
    """Everything that a format holds about one image.

    Attributes:
        file: path to the annotation file, for messages.
        image_names: where the image may be, best first: paths or names, absolute, relative to `file` or to the root.
        size: (height, width) by the annotation; None if only the image tells.
        shapes: in the order of the file.
        split: "train", "val", "test" or "".
        more_files: paths to other files that the shapes come from, such as masks.
        image_bytes: the encoded image, where the annotation file holds it.
        faults: everything that could not be read, with what to do.
        notes: counts of what the user should know (text -> how often).
    """

    file: str
    image_names: list[str]
    size: tuple[int, int] | None
    shapes: list[Shape] = field(default_factory=list)
    split: str = ""
    more_files: list[str] = field(default_factory=list)
    image_bytes: bytes | None = None
    faults: list[DatasetError] = field(default_factory=list)
    notes: Counter = field(default_factory=Counter)

    def copy(self) -> ImageAnnotation:
        """Returns a copy to which painting may add problems."""
        return replace(self, faults=list(self.faults), notes=Counter(self.notes))

    def fault(self, text: str, kind: str = "bad annotation entry") -> None:
        """Adds a problem of this file."""
        self.faults.append(DatasetError(text, self.file, kind))

    @contextmanager
    def guard(self, name: str, remedy: str = "fix or remove it; it is left out") -> Iterator[None]:
        """Turns any error in reading one entry of a file into a fault that names the entry."""
        try:
            yield
        except Exception as error:
            self.fault(f"{name}: {describe_error(error)}. {remedy[0].upper()}{remedy[1:]}.")


@dataclass(frozen=True)
class ClassInfo:
    """A class that a format declares; `isthing` is None where it does not say, `id` where it has none."""

    name: str
    isthing: bool | None = None
    color: tuple[int, int, int] | None = None
    id: int | None = None


@dataclass
class Dataset:
    """A folder of one format.

    Attributes:
        format: name of the format.
        items: one per image, or per annotation file; whatever `read` needs. Keys are unique texts.
        read: turns an item into an `ImageAnnotation`, with the size (height, width) of the image if it is known.
        classes: those that the format declares, in its order.
        order: one of `ORDERS`, the default for overlaps.
        boxes: "mask" or "skip", the default for boxes.
        objects: whether shapes that are not semantic are objects: "certain" (instance ids), "likely" (formats for
            objects, where only a class's name may say otherwise) or "unknown".
        amodal: whether shapes may have hidden parts, which an instances json then keeps.
        faults: problems of the data set as a whole.
    """

    format: str
    items: dict[str, Any]
    read: Callable[[Any], ImageAnnotation]
    classes: list[ClassInfo] = field(default_factory=list)
    order: str = "annotation"
    boxes: str = "mask"
    objects: str = "unknown"
    amodal: bool = True
    faults: list[DatasetError] = field(default_factory=list)
    notes: Counter = field(default_factory=Counter)

    @cached_property
    def keys(self) -> list[str]:
        """The keys of the items, in a fixed order."""
        return list(self.items)


def describe_error(error: Exception) -> str:
    """Says in words what an error in reading an entry means."""
    if isinstance(error, KeyError):
        return f"has no {error.args[0]!r}"
    if isinstance(error, DatasetError | ValueError) and not isinstance(error, binascii.Error):
        return str(error)
    if isinstance(error, binascii.Error | zlib.error | struct.error | EOFError):
        return f"its encoded data is corrupt ({error})"
    if isinstance(error, OSError):
        return f"its image data cannot be read ({error})"
    return f"has an unexpected value ({type(error).__name__}: {error})"

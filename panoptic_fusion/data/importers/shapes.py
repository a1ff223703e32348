"""Common representation of all annotation formats: a dataset of items, each an image with shapes.

The reader of a format opens a folder as a `Dataset`. Its `read` converts one item to an `ImageAnnotation`. It runs in
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

from ..dataset_errors import DatasetError
from .masks import FILL, Crop, clip_crop, merge_crops, tight_crop

ORDERS = ("z", "annotation", "smaller-in-front")
# Labels that mean "unlabeled" and "ignore these pixels" in labelme, ISAT and the datasets.
UNLABELED_NAMES = frozenset({"_background_", "__background__", "unlabeled", "unlabelled"})
IGNORED_NAMES = frozenset({"__ignore__", "ignore", "ignored", "void"})


@dataclass(frozen=True)
class Polygon:
    """Polygons: `parts` is a list of polygons, each a list of rings (N, 2); `fill` is a key of `FILL`."""

    parts: Sequence[Sequence[np.ndarray]]
    fill: str = "area"

    def crop(self, height: int, width: int) -> Crop:
        """Draws the polygons as a crop of an image with this size."""
        return merge_crops([FILL[self.fill](rings, height, width) for rings in self.parts])

    def bounds(self, height: int, width: int) -> tuple[float, float, float, float]:
        """Returns left, top, right and bottom."""
        points = np.concatenate([ring for rings in self.parts for ring in rings])
        return (*points.min(0).tolist(), *points.max(0).tolist())

    def has_ring_outside(self, height: int, width: int) -> bool:
        """Returns whether all points of a ring are beyond the same edge of the image."""
        rings = [ring for rings in self.parts for ring in rings if len(ring)]
        return any((ring.max(0) <= 0).any() or (ring.min(0) >= (width, height)).any() for ring in rings)


@dataclass(frozen=True)
class Mask:
    """Mask that is decoded when needed: `decode(height, width)` returns a crop, which may extend beyond the image."""

    decode: Callable[[int, int], Crop]

    def crop(self, height: int, width: int) -> Crop:
        """Returns the decoded mask as a crop within an image of this size."""
        crop = clip_crop(self.decode(height, width), height, width)
        return tight_crop(*crop)

    def bounds(self, height: int, width: int) -> tuple[float, float, float, float]:
        """Returns left, top, right and bottom."""
        crop = self.crop(height, width)
        return crop.left, crop.top, crop.left + crop.mask.shape[1], crop.top + crop.mask.shape[0]


@dataclass
class Shape:
    """One annotated area.

    Attributes:
        label: name of the class.
        geometry: `Polygon` or `Mask`.
        name: name in messages, such as "shapes[3]".
        z: paint order, higher is in front; used if the order is "z".
        group: shapes of an image with the same label and group form one object; None is a separate object.
        crowd: whether the shape covers several objects.
        isbox: whether the shape is a box, which `boxes="skip"` ignores.
        semantic: whether the shape covers a whole class in the image instead of one object. If it is a thing class, it
            is split into connected components.
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
    """All annotations of one image.

    Attributes:
        file: path to the annotation file, for messages.
        image_names: candidates for the image, best first: paths or names, absolute, relative to `file` or to the root.
        size: (height, width) according to the annotation; None if the annotation has no size.
        shapes: shapes in file order.
        split: "train", "val", "test" or "".
        more_files: paths to other files of the shapes, such as masks.
        image_bytes: encoded image, if the annotation file contains it.
        faults: everything that could not be read, with a remedy.
        notes: counts of events that the user should know about, {text: number of occurrences}.
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
        """Returns a copy to which painting can add problems."""
        return replace(self, faults=list(self.faults), notes=Counter(self.notes))

    def fault(self, text: str, kind: str = "bad annotation entry") -> None:
        """Records a problem in this file."""
        self.faults.append(DatasetError(text, self.file, kind))

    @contextmanager
    def guard(self, name: str, remedy: str = "fix or remove it; it is left out") -> Iterator[None]:
        """Records any error inside the context, which reads one entry of a file, together with the entry's name."""
        try:
            yield
        except Exception as error:
            self.fault(f"{name}: {describe_error(error)}. {remedy[0].upper()}{remedy[1:]}.")


@dataclass(frozen=True)
class ClassInfo:
    """Class declared by a format; `isthing` and `id` are None if the format does not define them."""

    name: str
    isthing: bool | None = None
    color: tuple[int, int, int] | None = None
    id: int | None = None


@dataclass
class Dataset:
    """Folder of annotations in one format.

    Attributes:
        format: name of the format.
        items: one item per image or annotation file, in the form that `read` needs. Keys are unique strings.
        read: function that converts an item to an `ImageAnnotation`, with the image size (height, width) if known.
        classes: classes declared by the format, in its order.
        order: default rule for overlaps, one of `ORDERS`.
        boxes: default rule for boxes, "mask" or "skip".
        objects: whether non-semantic shapes are objects: "certain" (instance ids), "likely" (object formats, unless the
            name of the class suggests stuff) or "unknown".
        amodal: whether shapes may have hidden parts, which an instances JSON then keeps.
        faults: problems of the whole dataset.
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
        """Returns the keys of the items in a fixed order."""
        return list(self.items)


def check_label(value: Any) -> str:
    """Returns a class name without surrounding spaces; raises ValueError if the value is not a name."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"its label is {value!r}, not a name")
    return value.strip()


def describe_error(error: Exception) -> str:
    """Describes an error in reading an entry in words."""
    if isinstance(error, KeyError):
        return f"has no {error.args[0]!r}"
    if isinstance(error, DatasetError | ValueError) and not isinstance(error, binascii.Error):
        return str(error)
    if isinstance(error, binascii.Error | zlib.error | struct.error | EOFError):
        return f"its encoded data is corrupt ({error})"
    if isinstance(error, OSError):
        return f"its image data cannot be read ({error})"
    return f"has an unexpected value ({type(error).__name__}: {error})"

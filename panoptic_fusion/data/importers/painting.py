"""Resolves overlaps by painting the shapes of an image into one panoptic map; keeps the complete masks of its things.

Shapes are painted from back to front, so that the last shape on a pixel wins:

- order "z": by ascending z; at equal z, stuff before things, then in file order.
- order "annotation": stuff before things, then in file order.
- order "smaller-in-front": stuff before things, crowds before other things, then larger before smaller shapes.

"Ignored" shapes are painted with the things and leave void pixels. "Unlabeled" shapes cut a hole, whose pixels count as
unlabeled. Pixels that no shape covers are void, or have the class `unlabeled` if it is given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Set
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from ..rle import encode_crop
from .masks import Crop, merge_crops, tight_crop
from .shapes import IGNORED_NAMES, ORDERS, UNLABELED_NAMES, ImageAnnotation, Polygon, Shape

_IGNORED = -1


@dataclass(frozen=True)
class PaintRules:
    """Rules for painting shapes into a panoptic map.

    Attributes:
        things: labels whose shapes are instances.
        order: paint order, one of `ORDERS`.
        boxes: whether boxes are painted.
        unlabeled: class of the pixels without a label, or None for void.
    """

    things: frozenset[str]
    order: str
    boxes: bool
    unlabeled: str | None = None

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise ValueError(f"unknown order {self.order!r}; available: {', '.join(ORDERS)}")


@dataclass
class Painted:
    """Painted image.

    Attributes:
        id_map: (H, W) int32, 0 is void.
        segments: {segment id: (label, iscrowd)}; some segments may have no pixels left.
        instances: {label, iscrowd, bbox, area, segmentation (RLE)} of the complete masks of the things.
        notes: counts of skipped content, {text: number of occurrences}.
        empty: names of the shapes without pixels.
    """

    id_map: np.ndarray
    segments: dict[int, tuple[str, int]] = field(default_factory=dict)
    instances: list[dict[str, Any]] = field(default_factory=list)
    notes: Counter = field(default_factory=Counter)
    empty: list[str] = field(default_factory=list)


def paint(annotation: ImageAnnotation, size: tuple[int, int], rules: PaintRules) -> Painted:
    """Paints the shapes of an image of `size` (height, width)."""
    painted = Painted(np.zeros(size, np.int32))
    pieces = _pieces(annotation, size, rules, painted)
    areas: Counter = Counter()
    for _, key, crop in pieces:
        areas[key] += int(crop.mask.sum())
    ids: dict[Hashable, int] = {}
    for shape, key, crop in sorted(pieces, key=lambda piece: _depth(piece[0], areas[piece[1]], rules)):
        if shape.label.lower() in IGNORED_NAMES:
            value = _IGNORED
        elif shape.label.lower() in UNLABELED_NAMES:
            value = 0
        else:
            value = ids.setdefault(key, len(ids) + 1)
            painted.segments[value] = (shape.label, int(shape.crowd and shape.label in rules.things))
        rows, columns = crop.mask.shape
        painted.id_map[crop.top : crop.top + rows, crop.left : crop.left + columns][crop.mask] = value
    painted.instances = _instances(pieces, ids, size, rules.things)
    if rules.unlabeled is not None and (painted.id_map == 0).any():
        fill = next((i for i, (label, _) in painted.segments.items() if label == rules.unlabeled), len(ids) + 1)
        painted.segments[fill] = (rules.unlabeled, 0)
        painted.id_map[painted.id_map == 0] = fill
    painted.id_map[painted.id_map == _IGNORED] = 0
    return painted


def _pieces(
    annotation: ImageAnnotation, size: tuple[int, int], rules: PaintRules, painted: Painted
) -> list[tuple[Shape, Hashable, Crop]]:
    """Returns the shapes with their pixels, and the key of the segment to which each belongs."""
    pieces = []
    for index, shape in enumerate(annotation.shapes):
        if shape.isbox and not rules.boxes:
            painted.notes["boxes left out, since a box is not a mask (--boxes mask takes them)"] += 1
            continue
        crop = None
        with annotation.guard(shape.name):
            crop = shape.geometry.crop(*size)
        if crop is None:
            continue
        if not crop.mask.any():
            painted.empty.append(shape.name)
            continue
        if shape.isbox:
            painted.notes["boxes taken as masks (--boxes skip leaves them out)"] += 1
        if isinstance(shape.geometry, Polygon):
            if shape.geometry.has_ring_outside(*size):
                annotation.fault(f"{shape.name}: one of its outlines is outside the image. Fix or remove it.")
            elif _leaves(shape.geometry.bounds(*size), size):
                painted.notes["shapes cut off at the edge of the image"] += 1
        if shape.label not in rules.things:
            pieces.append((shape, shape.label, crop))
        elif shape.semantic and not shape.crowd:
            pieces += [(shape, (index, k), part) for k, part in enumerate(components(crop))]
        else:
            alone = shape.group is None
            pieces.append((shape, index if alone else (shape.label, shape.group, shape.crowd), crop))
    return pieces


def _leaves(bounds: tuple[float, float, float, float], size: tuple[int, int]) -> bool:
    """Returns whether a shape extends more than one pixel beyond the image."""
    return min(bounds[:2]) < -1 or bounds[2] > size[1] + 1 or bounds[3] > size[0] + 1


def components(crop: Crop) -> list[Crop]:
    """Splits a crop into its connected components (8-connectivity)."""
    count, labels, boxes, _ = cv2.connectedComponentsWithStats(crop.mask.astype(np.uint8), connectivity=8)
    parts = []
    for label in range(1, count):
        x, y, w, h = boxes[label, :4].tolist()
        parts.append(Crop(labels[y : y + h, x : x + w] == label, crop.top + y, crop.left + x))
    return parts


def _depth(shape: Shape, area: int, rules: PaintRules) -> tuple[float, ...]:
    """Returns the sort key of a shape; lower is further back, and shapes with equal keys keep the file order."""

    front = shape.label in rules.things or shape.label.lower() in IGNORED_NAMES | UNLABELED_NAMES
    if rules.order == "z":
        return shape.z, front
    if rules.order == "annotation":
        return (float(front),)
    return float(front), float(not shape.crowd), -float(area)


def _instances(
    pieces: list[tuple[Shape, Hashable, Crop]], ids: dict[Hashable, int], size: tuple[int, int], things: Set[str]
) -> list[dict[str, Any]]:
    parts: dict[Hashable, list[tuple[Shape, Crop]]] = {}
    for shape, key, crop in pieces:
        if key in ids and shape.label in things:
            parts.setdefault(key, []).append((shape, crop))
    instances = []
    for found in parts.values():
        whole = tight_crop(*merge_crops([crop for _, crop in found]))
        height, width = whole.mask.shape
        instances.append(
            {
                "label": found[0][0].label,
                "iscrowd": int(found[0][0].crowd),
                "bbox": [whole.left, whole.top, width, height],
                "area": int(whole.mask.sum()),
                "segmentation": encode_crop(whole.mask, whole.top, whole.left, size),
            }
        )
    return instances

"""Greedy painting of instances in numpy; twin of `modeling/fusion/paint.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from panoptic_fusion.segments import list_segments

from .instances import Instances
from .mask_crops import Window
from .sem_seg_logits import Size

PanopticSeg = tuple[np.ndarray, list[dict]]
"""A panoptic segmentation: map (H, W) int32, 0 = void, and its segments_info (see `PanopticFusion.forward`)."""


class Crops(Protocol):
    """Masks that can be read one at a time, such as `PastedCrops`."""

    size: Size
    windows: list[Window]

    def __getitem__(self, index: int) -> np.ndarray: ...


@dataclass(frozen=True)
class Candidate:
    """The next instance to paint, as input of a rule's accept decision.

    Attributes:
        index: row of the instance.
        window: rows and columns of the instance: `image[window]` matches `mask`.
        mask: (h, w) bool.
        area: number of pixels of the mask.
        overlap: number of pixels of the mask that are already painted.
        canvas: (H, W) int32, the whole canvas: 0 where free, else 1 + position in the order.
    """

    index: int
    window: Window
    mask: np.ndarray
    area: int
    overlap: int
    canvas: np.ndarray


def paint(crops: Crops, order: Sequence[int], accept: Callable[[Candidate], bool]) -> np.ndarray:
    """Paints instances one after another, each where the canvas is still free, and returns the canvas.

    Args:
        crops: masks of R instances.
        order: rows of the instances to paint, topmost first.
        accept: function that returns whether to paint a candidate. The result is ignored for an empty mask.
    """
    canvas = np.zeros(crops.size, np.int32)
    for position, index in enumerate(order, start=1):
        window, mask = crops.windows[index], crops[index]
        part = canvas[window]
        free = mask & (part == 0)
        area = int(np.count_nonzero(mask))
        overlap = area - int(np.count_nonzero(free))
        if accept(Candidate(index, window, mask, area, overlap, canvas)):
            part += free * np.int32(position)
    return canvas


def assemble(
    canvas: np.ndarray,
    order: Sequence[int],
    sem_labels: np.ndarray,
    instances: Instances,
    *,
    num_stuff: int,
    stuff_area_limit: int,
) -> PanopticSeg:
    """Converts a canvas to a panoptic segmentation. Pixels that no instance covers become stuff or void.

    Args:
        canvas: result of `paint`.
        order: rows of the instances in paint order, including the rejected ones.
        sem_labels: (H, W) int16, the semantic channel of every pixel.
        instances: all R instances.
        num_stuff: S, the number of stuff classes, which are the semantic channels 0..S-1.
        stuff_area_limit: minimum number of pixels of a stuff segment.
    """
    first_stuff = len(order) + 1
    codes = np.where(canvas > 0, canvas, sem_labels.astype(np.int32) + first_stuff)
    areas = np.bincount(codes.ravel(), minlength=first_stuff + num_stuff).tolist()
    things, stuff, segments_info = list_segments(
        areas[1:first_stuff], areas[first_stuff : first_stuff + num_stuff],
        rows=order, classes=instances.classes[order].tolist(), scores=instances.scores[order].tolist(),
        stuff_area_limit=stuff_area_limit,
    )  # fmt: skip
    ids = [0, *things, *stuff]
    return np.array(ids + [0] * (len(areas) - len(ids)), np.int32)[codes], segments_info

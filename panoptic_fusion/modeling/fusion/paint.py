"""Greedy painting routine shared by all greedy rules. A rule decides only the order and which instances to accept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from panoptic_fusion.modeling.fusion.flat_paint import FREE, Candidates, paint_flat
from panoptic_fusion.modeling.fusion.loop_paint import Candidate, paint_loop
from panoptic_fusion.modeling.fusion.mask_crops import MaskCrops
from panoptic_fusion.segments import list_segments

FLAT_DEVICES = {"cuda"}
"""Types of devices on which all instances are processed at once. On a CPU, loops are several times faster."""

Accept = Callable[[Candidate | Candidates], torch.Tensor]


@dataclass(frozen=True)
class Painted:
    """Canvas with painted instances.

    Attributes:
        canvas: (H, W) int32, 0 where free, else 1 + position in `order`.
        order: rows of the instances in paint order, including the rejected ones.
    """

    canvas: torch.Tensor
    order: list[int]


def elementwise(accept: Callable) -> Callable:
    """Marks an accept decision that can decide about all candidates at once.

    It uses only the attributes that `loop_paint.Candidate` and `flat_paint.Candidates` share, in elementwise tensor
    operations, and depends on nothing else that changes while painting.
    """
    accept.elementwise = True
    return accept


def paints_flat(accept: Callable, device: torch.device) -> bool:
    """Returns whether `paint` decides about all instances at once."""
    while isinstance(accept, partial):
        accept = accept.func
    return device.type in FLAT_DEVICES and getattr(accept, "elementwise", False)


def paint(crops: MaskCrops, order: Sequence[int], accept: Accept, *, flat: bool | None = None) -> Painted:
    """Paints instances in order, each where the canvas is still free.

    `paint_loop` paints one instance after another. `paint_flat` returns the same from a few dozen launches on a GPU, if
    the accept decision is elementwise.

    Args:
        crops: masks of R instances.
        order: rows of the instances to paint, topmost first.
        accept: function that returns whether to paint a candidate, as a 0-d bool tensor, or if it is elementwise, which
            candidates to paint. The result is ignored for an empty mask.
        flat: whether to use `paint_flat`. None: see `paints_flat`.
    """
    if paints_flat(accept, crops.device) if flat is None else flat:
        (canvas,), _ = paint_flat(crops, order, accept)
        canvas.remainder_(FREE)  # FREE becomes 0, the positions are lower
    else:
        canvas = torch.zeros(crops.size, dtype=torch.int32, device=crops.device)
        paint_loop(canvas, crops, order, accept)
    return Painted(canvas, list(order))


def assemble(
    painted: Painted,
    sem_labels: torch.Tensor,
    *,
    scores: Sequence[float],
    classes: Sequence[int],
    num_stuff: int,
    stuff_area_limit: int,
) -> tuple[torch.Tensor, list[dict]]:
    """Converts a canvas to a panoptic segmentation. Pixels that no instance covers become stuff or void.

    The free pixels of a stuff class form one segment if there are at least `stuff_area_limit` of them; otherwise they
    become void. Free pixels with any other label (thing classes, the collapsed things channel, ignored) become void. As
    in detectron2, ids count from 1, first things in paint order, then stuff by ascending class. An instance without a
    pixel is omitted, because evaluators reject empty segments. With an overlap threshold below 1 an accepted instance
    has a pixel, unless the canvas was resized.

    Args:
        painted: result of `paint`.
        sem_labels: (H, W) int64, the semantic channel of every pixel.
        scores, classes: scores and classes of all R instances, on the CPU, indexed by the rows in `painted.order`.
        num_stuff: S, the number of stuff classes, which are the semantic channels 0..S-1.
        stuff_area_limit: minimum number of pixels of a stuff segment.

    Returns:
        The panoptic map (H, W) int32 and segments_info, as described in `PanopticFusion.forward`.
    """
    canvas, order = painted.canvas, painted.order
    first_stuff = len(order) + 1
    codes = torch.where(canvas > 0, canvas, sem_labels.int() + first_stuff).flatten()
    areas = torch.bincount(codes, minlength=first_stuff + num_stuff).tolist()
    things, stuff, segments_info = list_segments(
        areas[1:first_stuff], areas[first_stuff : first_stuff + num_stuff],
        rows=order, classes=[classes[row] for row in order], scores=[scores[row] for row in order],
        stuff_area_limit=stuff_area_limit,
    )  # fmt: skip
    ids = [0, *things, *stuff]
    table = torch.tensor(ids + [0] * (len(areas) - len(ids)), dtype=torch.int32, device=codes.device)
    return table.index_select(0, codes).view_as(canvas), segments_info

"""Greedy painting routine shared by all greedy rules. A rule decides only the order and which instances to accept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from panoptic_fusion.decisions import is_large_stuff
from panoptic_fusion.modeling.fusion.mask_crops import MaskCrops, Window


@dataclass(frozen=True)
class Candidate:
    """The next instance to paint, as input of a rule's accept decision.

    Attributes:
        index: row of the instance.
        window: rows and columns of the instance: `image[window]` matches `mask`.
        mask: (h, w) bool.
        painted: (h, w) int32, the canvas in the window: 0 where free, else 1 + position in the order.
        area: 0-d int64, number of pixels of the mask.
        overlap: 0-d int64, number of pixels of the mask that are already painted.
        canvas: (H, W) int32, the whole canvas.
    """

    index: int
    window: Window
    mask: torch.Tensor
    painted: torch.Tensor
    area: torch.Tensor
    overlap: torch.Tensor
    canvas: torch.Tensor


@dataclass(frozen=True)
class Painted:
    """Canvas with painted instances.

    Attributes:
        canvas: (H, W) int32, 0 where free, else 1 + position in `order`.
        order: rows of the instances in paint order, including the rejected ones.
    """

    canvas: torch.Tensor
    order: list[int]


def paint(crops: MaskCrops, order: Sequence[int], accept: Callable[[Candidate], torch.Tensor]) -> Painted:
    """Paints instances one after another, each where the canvas is still free.

    No value is copied to the CPU, so the CPU never waits for a GPU.

    Args:
        crops: masks of R instances.
        order: rows of the instances to paint, topmost first.
        accept: function that returns whether to paint a candidate, as a 0-d bool tensor. The result is ignored for an
            empty mask.
    """
    canvas = torch.zeros(crops.size, dtype=torch.int32, device=crops.device)
    for position, index in enumerate(order, start=1):
        window, mask = crops.windows[index], crops[index]
        part = canvas[window]
        free = mask & part.logical_not()
        area = mask.count_nonzero()
        candidate = Candidate(index, window, mask, part, area, area - free.count_nonzero(), canvas)
        # Free pixels hold 0, so addition paints them. On a CPU this is ten times faster than a masked assignment.
        part += free * (accept(candidate).int() * position)
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
    areas = torch.bincount(codes).tolist()

    ids = [0] * len(areas)
    segments_info: list[dict] = []
    for code, area in enumerate(areas):
        if area == 0:
            continue
        if code < first_stuff:
            row = order[code - 1]
            segment = {"isthing": True, "category_id": classes[row], "score": scores[row], "instance_id": row}
        elif code < first_stuff + num_stuff and is_large_stuff(area, stuff_area_limit):
            segment = {"isthing": False, "category_id": code - first_stuff}
        else:
            continue
        ids[code] = len(segments_info) + 1
        segments_info.append({"id": ids[code], **segment, "area": area})
    table = torch.tensor(ids, dtype=torch.int32, device=codes.device)
    return table.index_select(0, codes).view_as(canvas), segments_info

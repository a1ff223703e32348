"""The greedy painting routine that all rules share: which order and which instances is the rule's, the rest is here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from panoptic_fusion.modeling.fusion.mask_crops import MaskCrops, Window


@dataclass(frozen=True)
class Candidate:
    """An instance at its turn to be painted: what a rule may look at.

    Attributes:
        index: row of the instance.
        window: its rows and columns: `image[window]` matches `mask`.
        mask: (h, w) bool.
        painted: (h, w) int32, what is painted already in the window: 0 where free, else 1 + position in the order.
        area: 0-d int64, pixels of the mask.
        overlap: 0-d int64, pixels of the mask that are painted already.
    """

    index: int
    window: Window
    mask: torch.Tensor
    painted: torch.Tensor
    area: torch.Tensor
    overlap: torch.Tensor


@dataclass(frozen=True)
class Painted:
    """Instances on a canvas.

    Attributes:
        canvas: (H, W) int32, 0 where free, else 1 + position in `order`.
        order: rows of the instances in the order in which they had their turn, those that were not accepted included.
    """

    canvas: torch.Tensor
    order: list[int]


def paint(crops: MaskCrops, order: Sequence[int], accept: Callable[[Candidate], torch.Tensor]) -> Painted:
    """Paint instances one after another, each where the canvas is still free.

    No value is read on the host, so that a GPU is never waited for.

    Args:
        crops: the masks of R instances.
        order: rows of the instances to paint, the first on top.
        accept: whether to paint a candidate, as a 0-d bool tensor. (For an empty mask the answer is of no effect.)
    """
    canvas = torch.zeros(crops.size, dtype=torch.int32, device=crops.device)
    for position, index in enumerate(order, start=1):
        window, mask = crops.windows[index], crops[index]
        part = canvas[window]
        free = mask & part.logical_not()
        area = mask.count_nonzero()
        candidate = Candidate(index, window, mask, part, area, area - free.count_nonzero())
        # The free pixels hold 0, so adding is painting; on a CPU that is ten times faster than a masked assignment.
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
    """Turn a canvas into a panoptic segmentation; what no instance covers goes to stuff.

    The free pixels of a stuff class form one segment if they are at least `stuff_area_limit`, else void. Free pixels of
    any other label (thing classes, the collapsed things channel, ignored) become void. As in detectron2, ids count
    from 1, first things in the order of painting, then stuff by ascending class. An instance that has no pixel is no
    segment (with an overlap threshold below 1 an accepted instance has one, unless the canvas was resized): evaluators
    reject empty segments.

    Args:
        painted: the result of `paint`.
        sem_labels: (H, W) int64, the semantic channel of every pixel.
        scores, classes: of all R instances, on the host, indexed by the rows in `painted.order`.
        num_stuff: the number S of stuff classes, which are the semantic channels 0..S-1.
        stuff_area_limit: in pixels.

    Returns:
        the panoptic map (H, W) int32 and segments_info, as `PanopticFusion.forward` describes them.
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
        elif code < first_stuff + num_stuff and area >= stuff_area_limit:
            segment = {"isthing": False, "category_id": code - first_stuff}
        else:
            continue
        ids[code] = len(segments_info) + 1
        segments_info.append({"id": ids[code], **segment, "area": area})
    table = torch.tensor(ids, dtype=torch.int32, device=codes.device)
    return table.index_select(0, codes).view_as(canvas), segments_info

"""Mask pruning of UPSNet (section 3.2), which selects the instances of the panoptic head at inference."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import nms

from panoptic_fusion.decisions import MAX_INSTANCES, NMS_THRESH, fits
from panoptic_fusion.modeling.fusion.flat_paint import FREE, Candidates, paint_flat
from panoptic_fusion.modeling.fusion.loop_paint import Candidate, paint_loop
from panoptic_fusion.modeling.fusion.mask_crops import MaskCrops
from panoptic_fusion.modeling.fusion.paint import elementwise, paints_flat

MAX_CANVAS_PIXELS = 2**25
"""Maximum number of pixels of all canvases that exist at once on a GPU."""


def suppress_boxes(boxes: Tensor, scores: Tensor) -> Tensor:
    """Applies class-agnostic non-maximum suppression: drops boxes with IoU above 0.5 with a higher-scoring box.

    The published code computes the IoU of boxes of width x1 - x0 + 1. It also keeps at most 100.

    Args:
        boxes: (R, 4) float, XYXY with exclusive ends.
        scores: (R,) float.

    Returns:
        (K,) int64, the remaining rows by descending score (in a tie the lower row first), at most 100.
    """
    return nms(boxes.float(), scores.float(), NMS_THRESH)[:MAX_INSTANCES]


def prune_masks(crops: MaskCrops, classes: Sequence[int], thresh: float) -> list[bool]:
    """Pastes the masks of each class onto its own canvas in the given order, and drops masks that do not fit.

    A mask is dropped if it is empty or if more than the fraction `thresh` of it is already covered on its canvas. "The
    non-intersecting part" of the paper concerns the canvas only: a kept instance keeps its whole mask logits.

    Args:
        crops: masks of at least R instances, by descending score.
        classes: thing ids of the first R.
        thresh: overlap threshold in [0, 1].

    Returns:
        Whether each of the R instances is kept. All values are copied from the device at once.
    """

    @elementwise
    def accept(candidate: Candidate | Candidates) -> Tensor:
        return fits(candidate.overlap, candidate.area, thresh)

    things = sorted(set(classes))
    rows = [[index for index, other in enumerate(classes) if other == thing] for thing in things]
    kept: list[Tensor] = []
    if paints_flat(accept, crops.device):
        step = max(1, MAX_CANVAS_PIXELS // (crops.size[0] * crops.size[1]))
        for some in (rows[start : start + step] for start in range(0, len(rows), step)):
            layers = [layer for layer, own in enumerate(some) for _ in own]
            kept.append(paint_flat(crops, [index for own in some for index in own], accept, layers)[1] != FREE)
    else:
        for own in rows:
            canvas = torch.zeros(crops.size, dtype=torch.int32, device=crops.device)
            kept += [torch.stack(paint_loop(canvas, crops, own, accept))]
    order = [index for own in rows for index in own]
    decisions = dict(zip(order, torch.cat(kept).tolist() if kept else [], strict=True))
    return [decisions[index] for index in range(len(classes))]

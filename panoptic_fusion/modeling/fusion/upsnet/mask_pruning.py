"""Mask pruning of UPSNet (section 3.2), which selects the instances of the panoptic head at inference."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import nms

from panoptic_fusion.decisions import fits
from panoptic_fusion.modeling.fusion.mask_crops import MaskCrops
from panoptic_fusion.modeling.fusion.paint import Candidate, paint

NMS_THRESH = 0.5
MAX_INSTANCES = 100


def suppress_boxes(boxes: Tensor, scores: Tensor) -> Tensor:
    """Applies class-agnostic non-maximum suppression: drops boxes with IoU above 0.5 with a higher-scoring box.

    Args:
        boxes: (R, 4) float, XYXY with exclusive ends.
        scores: (R,) float.

    Returns:
        (K,) int64, the remaining rows by descending score (in a tie the lower row first), at most 100.
    """
    return nms(boxes.float(), scores.float(), NMS_THRESH)[:MAX_INSTANCES]


def prune_masks(crops: MaskCrops, classes: Sequence[int], thresh: float) -> list[bool]:
    """Pastes the masks of each class onto its own canvas in the given order, and drops masks that do not fit.

    A mask is dropped if it is empty or if more than the fraction `thresh` of it is already covered on its canvas.

    Args:
        crops: R masks, by descending score.
        classes: R thing ids.
        thresh: overlap threshold in [0, 1].

    Returns:
        Whether each instance is kept. All values are copied from the device at once.
    """
    kept: dict[int, Tensor] = {}

    def accept(candidate: Candidate) -> Tensor:
        kept[candidate.index] = fits(candidate.overlap, candidate.area, thresh)
        return kept[candidate.index]

    for thing in sorted(set(classes)):
        paint(crops, [index for index, other in enumerate(classes) if other == thing], accept)
    return torch.stack([kept[index] for index in range(len(crops))]).tolist() if kept else []

"""Which instances enter UPSNet's panoptic head at inference: the mask pruning process of section 3.2."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import nms

from panoptic_fusion.modeling.fusion.mask_crops import MaskCrops
from panoptic_fusion.modeling.fusion.paint import Candidate, paint

NMS_THRESH = 0.5
MAX_INSTANCES = 100


def suppress_boxes(boxes: Tensor, scores: Tensor) -> Tensor:
    """Class-agnostic non-maximum suppression: drops a box whose IoU with one of a higher score is above 0.5.

    Args:
        boxes: (R, 4) float, XYXY with exclusive ends.
        scores: (R,) float.

    Returns:
        (K,) int64, the rows that are left, by descending score (in a tie the lower row first), at most 100.
    """
    return nms(boxes.float(), scores.float(), NMS_THRESH)[:MAX_INSTANCES]


def prune_masks(crops: MaskCrops, classes: Sequence[int], thresh: float) -> list[bool]:
    """Pastes the masks of each class onto a canvas of that class, in the given order, and drops those that do not fit.

    A mask is dropped if it is empty or if more than the fraction `thresh` of it is on its canvas already.

    Args:
        crops: R masks, by descending score.
        classes: R thing ids.
        thresh: in [0, 1].

    Returns:
        For each instance whether it is kept. All of them are read from the device at once.
    """
    fits: dict[int, Tensor] = {}

    def accept(candidate: Candidate) -> Tensor:
        covered = candidate.overlap.double() / candidate.area  # NaN for an empty mask, which is not <= thresh
        fits[candidate.index] = covered <= thresh
        return fits[candidate.index]

    for thing in sorted(set(classes)):
        paint(crops, [index for index, other in enumerate(classes) if other == thing], accept)
    return torch.stack([fits[index] for index in range(len(crops))]).tolist() if fits else []

"""Area limit of connected regions of stuff, the literal reading of OANet (section 4.2)."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from panoptic_fusion.data.label_space import IGNORE_LABEL

STUFF_AREAS = ("class", "region")


def drop_small_regions(labels: Tensor, free: Tensor, *, num_stuff: int, limit: int) -> Tensor:
    """Returns labels in which the small connected regions of every stuff class are ignored.

    Pixels that touch at a side or corner are connected. The regions are computed on the CPU.

    Args:
        labels: (H, W) integer classes; the stuff classes are 0..S-1.
        free: (H, W) bool mask of the pixels that no instance covers; only these count.
        num_stuff: S, the number of stuff classes.
        limit: number of pixels; smaller regions become 255.
    """
    stuff = torch.where(free & (labels < num_stuff), labels, num_stuff).cpu().numpy()
    small = np.zeros(stuff.shape, bool)
    for channel in np.unique(stuff[stuff < num_stuff]):
        _, regions = cv2.connectedComponents((stuff == channel).astype(np.uint8), connectivity=8)
        areas = np.bincount(regions.ravel())
        small |= (regions > 0) & (areas < limit)[regions]
    return labels.masked_fill(torch.from_numpy(small).to(labels.device), IGNORE_LABEL)

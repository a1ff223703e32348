"""Area limit of connected regions of stuff, the literal reading of OANet (section 4.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from panoptic_fusion.data.label_space import IGNORE_LABEL
from panoptic_fusion.segments import small_regions

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
    return labels.masked_fill(torch.from_numpy(small_regions(stuff, num_stuff, limit)).to(labels.device), IGNORE_LABEL)

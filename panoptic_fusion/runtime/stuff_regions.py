"""Area limit of connected regions of stuff, the literal reading of OANet (section 4.2)."""

from __future__ import annotations

import numpy as np

IGNORE_LABEL = 255


def small_regions(labels: np.ndarray, num_stuff: int, limit: int) -> np.ndarray:
    """Returns the pixels of the small connected regions of every stuff class, (H, W) bool.

    Pixels that touch at a side or corner are connected.

    Args:
        labels: (H, W) integers; the stuff classes are 0..S-1, other labels are not considered.
        num_stuff: S.
        limit: number of pixels; regions with fewer are small.
    """
    import cv2

    small = np.zeros(labels.shape, bool)
    for channel in np.unique(labels[labels < num_stuff]):
        _, regions = cv2.connectedComponents((labels == channel).astype(np.uint8), connectivity=8)
        areas = np.bincount(regions.ravel())
        small |= (regions > 0) & (areas < limit)[regions]
    return small

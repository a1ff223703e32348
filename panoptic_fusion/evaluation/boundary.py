"""Boundary pixels of segments, for boundary IoU and boundary PQ.

Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", 2021.
"""

import math

import cv2
import numpy as np

DILATION_RATIO = 0.02  # of the image's diagonal


def boundary_width(size: tuple[int, int], ratio: float = DILATION_RATIO) -> int:
    """Returns the width of boundaries in pixels, at least 1.

    Args:
        size: (height, width) of the image.
        ratio: width as a fraction of the image's diagonal; the reference code uses 0.02.
    """
    return max(1, round(ratio * math.hypot(*size)))


def is_boundary(labels: np.ndarray, width: int) -> np.ndarray:
    """Returns which pixels are boundary pixels of their segment: (H, W) bool.

    These are the pixels that `width` erosions by a 3x3 square remove from the mask of their segment. Such a pixel has a
    pixel of another segment, or the outside of the image, within `width` rows and columns. A minimum and a maximum
    filter of the whole map therefore find the boundaries of all segments at once.

    Args:
        labels: (H, W) integers below 2^24.
        width: width of the boundaries in pixels, at least 1.
    """
    values = labels.astype(np.float32)  # cv2 cannot filter int32; integers below 2^24 stay exact
    side = min(2 * width + 1, 2 * max(values.shape) + 1)
    kernel = np.ones((side, side), np.uint8)
    lowest = cv2.erode(values, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=-1)
    highest = cv2.dilate(values, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=2.0**24)
    return lowest != highest


def boundary_only(labels: np.ndarray, inside: int, width: int | None = None) -> np.ndarray:
    """Returns the map with the inner pixels of all segments set to the id `inside`; void (0) stays void.

    Args:
        labels: (H, W) integers in [0, 2^24), 0 is void.
        inside: id that no segment has.
        width: width of the boundaries, see `is_boundary`. None uses `boundary_width` of the image.
    """
    width = boundary_width(labels.shape) if width is None else width
    return np.where(is_boundary(labels, width) | (labels == 0), labels, np.asarray(inside, labels.dtype))

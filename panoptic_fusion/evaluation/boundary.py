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
    pixel of another segment, or the outside of the image, within `width` rows and columns. On the way to it, the label
    changes in a block of 2x2 pixels, so one dilation of these blocks finds the boundaries of all segments at once.

    Args:
        labels: (H, W) integers.
        width: width of the boundaries in pixels, at least 1.
    """
    height, columns = labels.shape
    changes = np.ones((height + 1, columns + 1), bool)  # 2x2 blocks with several labels, by their lower right pixel
    inner, along_row = changes[1:-1, 1:-1], labels[:, 1:] != labels[:, :-1]
    np.logical_or(along_row[1:], along_row[:-1], out=inner)
    inner |= labels[1:, 1:] != labels[:-1, 1:]
    width = min(width, max(labels.shape) + 1)
    square = np.ones((2 * width, 2 * width), np.uint8)
    near = cv2.dilate(changes.view(np.uint8), square, anchor=(width - 1, width - 1), borderValue=0)
    return near[:height, :columns].view(bool)

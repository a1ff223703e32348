"""Elementwise decisions of the fusion rules: which instances and stuff segments pass the thresholds.

Every function takes torch tensors, numpy arrays or Python numbers, of any shapes that broadcast, and returns bools of
the same kind. The greedy loop passes one instance at a time. Other callers may pass all instances at once. This module
only imports numpy, so a runtime without torch can use it.

Fractions are computed in float64, so the thresholds decide as on exact fractions of integers. An empty mask has the
fraction 0 / 0, which is NaN and does not pass any threshold.
"""

from __future__ import annotations

from typing import Any

import numpy as np

FINITE_LIMIT = 2.0**60
"""Magnitude from which a number counts as infinite. Below it, sums of logits and whole pixels of boxes are finite."""
NMS_THRESH = 0.5
"""UPSNet (section 3.2): IoU of two boxes above which the one with the lower score is dropped."""
MAX_INSTANCES = 100
"""Maximum number of instances of UPSNet's panoptic head."""

Array = Any
"""A torch tensor, a numpy array or a Python number."""


def fraction(part: Array, whole: Array) -> Array:
    """Returns `part / whole` in float64; NaN for 0 / 0."""
    if hasattr(part, "double"):
        return part.double() / whole
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.divide(part, whole, dtype=np.float64)


def reaches_score(scores: Array, thresh: float) -> Array:
    """Returns whether a score is at least `thresh`.

    Used by the heuristic rule, mask-guided fusion and spatial ranking. Scores are compared in float64 like in
    detectron2, which converts them to Python numbers.
    """
    return fraction(scores, 1) >= thresh


def exceeds_score(scores: Array, thresh: float) -> Array:
    """Returns whether a score is above `thresh`, in the precision of the scores (Seamless, UPSNet)."""
    return scores > thresh


def fits(overlap: Array, area: Array, thresh: float) -> Array:
    """Returns whether at most the fraction `thresh` of a mask is already covered.

    Used by the heuristic rule, Seamless, spatial ranking, and UPSNet's mask pruning.

    Args:
        overlap: number of pixels of the mask that earlier instances cover.
        area: number of pixels of the mask.
        thresh: overlap threshold in [0, 1].
    """
    return fraction(overlap, area) <= thresh


def is_agreed(
    overlap: Array,
    area: Array,
    agreed: Array,
    *,
    overlap_thresh: float,
    agreement_thresh: float,
    things_area: Array | None = None,
    painted_area: Array | None = None,
) -> Array:
    """Returns whether mask-guided fusion (TASCNet, section 3.3) accepts an instance; both thresholds are strict.

    It is true if both `is_little_covered` and `is_confirmed` are; see their arguments.
    """
    is_free = is_little_covered(overlap, area, overlap_thresh, painted_area=painted_area)
    return is_free & is_confirmed(area, agreed, agreement_thresh, things_area=things_area)


def is_little_covered(overlap: Array, area: Array, thresh: float, *, painted_area: Array | None = None) -> Array:
    """Returns whether less than the fraction `thresh` of a mask is covered.

    Args:
        overlap: number of pixels of the mask that earlier instances cover.
        area: number of pixels of the mask.
        thresh: overlap threshold in [0, 1].
        painted_area: number of pixels of the image that earlier instances cover, to apply the overlap threshold to the
            IoU of the mask and these pixels. None: it applies to the fraction of the mask that they cover.
    """
    return fraction(overlap, area if painted_area is None else area + painted_area - overlap) < thresh


def is_confirmed(area: Array, agreed: Array, thresh: float, *, things_area: Array | None = None) -> Array:
    """Returns whether the agreement of a mask with the semantic labels is above `thresh`.

    Args:
        area: number of pixels of the mask.
        agreed: number of pixels of the mask that are things in the semantic labels.
        thresh: agreement threshold in [0, 1].
        things_area: number of pixels of the image that are things in the semantic labels, to use the IoU of the mask
            and these pixels as agreement. None: the agreement is the fraction of the mask in these pixels.
    """
    return fraction(agreed, area if things_area is None else area + things_area - agreed) > thresh


def is_large_stuff(area: Array, limit: int) -> Array:
    """Returns whether a stuff segment is kept, which requires at least `limit` pixels and at least one."""
    return (area > 0) & (area >= limit)


def is_mostly_stuff(most: Array, total: Array) -> Array:
    """Returns whether an instance becomes stuff in UPSNet (section 3.1): half of its pixels have one stuff class.

    Args:
        most: number of pixels of the instance with its most frequent stuff label.
        total: number of pixels of the instance.
    """
    return (most > 0) & (2 * most >= total)

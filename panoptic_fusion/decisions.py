"""The decisions of the fusion rules, elementwise: which instances and stuff segments pass the thresholds.

Every function takes torch tensors, numpy arrays or Python numbers, of any shapes that broadcast, and returns bools of
the same kind. The greedy loop calls them with one instance at a time; other callers may pass all instances at once.
This module imports numpy alone, so that a runtime without torch shares it.

Fractions are computed in float64: the thresholds decide as they would on exact fractions of integers. An empty mask
has the fraction 0 / 0, which is NaN and passes no threshold.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any
"""A torch tensor, a numpy array or a Python number."""


def fraction(part: Array, whole: Array) -> Array:
    """Returns `part / whole` in float64; NaN for 0 / 0."""
    if hasattr(part, "double"):
        return part.double() / whole
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.divide(part, whole, dtype=np.float64)


def reaches_score(scores: Array, thresh: float) -> Array:
    """Returns whether a score is at least `thresh`: the heuristic rule, mask-guided fusion, spatial ranking.

    Compared in float64, as in detectron2, which reads scores as Python numbers.
    """
    return fraction(scores, 1) >= thresh


def exceeds_score(scores: Array, thresh: float) -> Array:
    """Returns whether a score is above `thresh`, in the precision of the scores: Seamless, UPSNet."""
    return scores > thresh


def fits(overlap: Array, area: Array, thresh: float) -> Array:
    """Returns whether at most the fraction `thresh` of a mask is covered already.

    For the heuristic rule, Seamless, spatial ranking, and UPSNet's mask pruning.

    Args:
        overlap: pixels of the mask that earlier instances cover, integer.
        area: pixels of the mask, integer.
        thresh: in [0, 1].
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

    Args:
        overlap: pixels of the mask that earlier instances cover, integer.
        area: pixels of the mask, integer.
        agreed: pixels of the mask that the semantic labels call a thing, integer.
        overlap_thresh: in [0, 1]; less than this fraction of the mask is covered.
        agreement_thresh: in [0, 1]; the agreement is above it.
        things_area: pixels of the image that the semantic labels call a thing: the agreement is the IoU of mask and
            things. None: it is the share of the mask that lies in the things.
        painted_area: pixels of the image that earlier instances cover: the threshold applies to the IoU of mask and
            these. None: to the share of the mask that they cover.
    """
    whole = area if things_area is None else area + things_area - agreed
    painted = area if painted_area is None else area + painted_area - overlap
    return (fraction(overlap, painted) < overlap_thresh) & (fraction(agreed, whole) > agreement_thresh)


def is_large_stuff(area: Array, limit: int) -> Array:
    """Returns whether a stuff segment stays: it has a pixel, and at least `limit` of them."""
    return (area > 0) & (area >= limit)


def is_mostly_stuff(most: Array, total: Array) -> Array:
    """Returns whether an instance becomes stuff in UPSNet (section 3.1): half of its pixels are of one stuff class.

    Args:
        most: pixels of the instance with its most frequent stuff label, integer.
        total: pixels of the instance, integer.
    """
    return (most > 0) & (2 * most >= total)

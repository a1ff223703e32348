"""Compares two predictions of the same images: difference in PQ with its confidence interval, and where it comes from.

Shapes: N is the number of images, C the number of classes. "Sums" are as in `tuning/statistics.py`.
"""

from typing import Any

import numpy as np

from ..panoptic_quality import pq_of_classes
from ..tuning.statistics import interval, quality_of_sums, resampled_sums

MOST_CHANGED = 50


def compare(sums: tuple[np.ndarray, np.ndarray], pq: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    """Compares a prediction with another one.

    The confidence intervals have the level of `tuning/statistics.py`. They are percentile intervals of the differences
    on random sets of N images, drawn with replacement. Both predictions get the same sets.

    Args:
        sums: (N, 4, C) sums per image of each prediction.
        pq: (N,) PQ x 100 per image of each prediction, NaN if no class occurs.

    Returns:
        All differences are second minus first, x 100, and NaN if one side has no PQ. {"delta": {"pq", "ci": [low,
        high], "samples": N}, "by_class": list of {"category": class, "delta", "ci"}, without classes that one side
        lacks, "images": list of [image, difference], largest change first, at most 50, without unchanged images}.
    """
    num = len(sums[0])
    if not num:
        return {
            "delta": {"pq": float("nan"), "ci": list(interval(np.empty(0))), "samples": 0},
            "by_class": [],
            "images": [],
        }
    totals = [each.sum(axis=0) for each in sums]
    drawn = [resampled_sums(each) for each in sums]
    spread = 100 * (quality_of_sums(drawn[1]) - quality_of_sums(drawn[0]))
    delta = 100 * float(quality_of_sums(totals[1]) - quality_of_sums(totals[0]))
    of_classes = 100 * (_class_quality(totals[1]) - _class_quality(totals[0]))
    class_spread = 100 * (_class_quality(drawn[1]) - _class_quality(drawn[0]))
    changes = pq[1] - pq[0]
    order = np.argsort(-np.abs(np.nan_to_num(changes)), kind="stable")[:MOST_CHANGED]
    return {
        "delta": {"pq": delta, "ci": list(interval(spread)), "samples": num},
        "by_class": [
            {"category": cls, "delta": float(of_classes[cls]), "ci": list(interval(class_spread[:, cls]))}
            for cls in np.flatnonzero(~np.isnan(of_classes)).tolist()
        ],
        "images": [[i, float(changes[i])] for i in order.tolist() if changes[i] != 0 and not np.isnan(changes[i])],
    }


def _class_quality(sums: np.ndarray) -> np.ndarray:
    """Returns the PQ in [0, 1] of each class (..., C) of sums (..., 4, C); NaN if a class does not occur."""
    return pq_of_classes(*np.moveaxis(sums, -2, 0))

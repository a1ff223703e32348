"""Panoptic quality of sums over images, and its confidence interval by bootstrap over the images.

Shapes: N is the number of images, C the number of classes, B the number of resamples. "Sums" are arrays (..., 4, C)
with tp, fp, fn and the IoU sum of the true positives of each class; they add up over images.
"""

import numpy as np

from ..panoptic_quality import pq_of_classes

RESAMPLES = 2000
LEVEL = 0.95


def quality_of_sums(sums: np.ndarray) -> np.ndarray:
    """Returns the PQ in [0, 1] of sums (..., 4, C): (...) float64, mean over the classes that occur, NaN if none."""
    quality = pq_of_classes(*np.moveaxis(sums, -2, 0))
    occurs = ~np.isnan(quality)
    count = occurs.sum(axis=-1)
    total = np.where(occurs, quality, 0).sum(axis=-1)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def resampled_quality(sums: np.ndarray, seed: int = 0, resamples: int = RESAMPLES) -> np.ndarray:
    """Returns the PQ of the random sets of N images of `resampled_sums`: (B,) float64."""
    return quality_of_sums(resampled_sums(sums, seed, resamples))


def resampled_sums(sums: np.ndarray, seed: int = 0, resamples: int = RESAMPLES) -> np.ndarray:
    """Returns the sums of random sets of N images, drawn with replacement: (B, 4, C) float64.

    Calls with the same seed draw the same sets, so differences between two predictors on the same images are paired.

    Args:
        sums: (N, 4, C).
        seed: seed of the random sets.
        resamples: B.
    """
    num = len(sums)
    rng = np.random.default_rng(seed)
    times = np.stack([np.bincount(rng.integers(num, size=num), minlength=num) for _ in range(resamples)])
    return (times @ sums.reshape(num, -1)).reshape(resamples, *sums.shape[1:])


def interval(values: np.ndarray) -> tuple[float, float]:
    """Returns the percentile interval of level `LEVEL` of resampled values (B,), without NaN; (NaN, NaN) if none."""
    values = values[~np.isnan(values)]
    if not values.size:
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)

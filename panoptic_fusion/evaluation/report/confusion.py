"""Confusion of classes, in pixels and in segments.

C is the number of classes. Row and column C of both tables stand for "none": void in the pixels, no partner in the
segments. Rows are ground truth, columns predictions.
"""

import numpy as np

from ..matching import ImageCounts
from .errors import ImageErrors


def pixel_confusion(image: ImageCounts, num_classes: int) -> np.ndarray:
    """Returns the pixels of each pair of classes of one image, (C + 1, C + 1) int64; crowds keep their class."""
    table = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    rows, columns = (np.append(num_classes, classes) for classes in (image.gt_classes, image.pred_classes))
    np.add.at(table, (rows[:, None], columns), image.counts)
    return table


def segment_confusion(errors: ImageErrors, num_classes: int) -> np.ndarray:
    """Returns the segments of each pair of classes of one image, (C + 1, C + 1) int64.

    Pairs are the matched ones (on the diagonal) and those of wrong class, see `errors.py`. All other false negatives
    are in the last column, all other false positives in the last row. A row without its diagonal therefore adds up
    to the FN of the class, such a column to the FP.
    """
    matching, table = errors.matching, np.zeros((num_classes + 1, num_classes + 1), np.int64)
    gt, pred = matching.gt_classes, matching.pred_classes
    hits = gt[matching.g[matching.matched]]
    np.add.at(table, (hits, hits), 1)
    g, p = np.nonzero(errors.wrong_class)
    np.add.at(table, (gt[g], pred[p]), 1)
    np.add.at(table, (gt[matching.missed & ~errors.wrong_class.any(axis=1)], num_classes), 1)
    np.add.at(table, (num_classes, pred[matching.spurious & ~errors.wrong_class.any(axis=0)]), 1)
    return table

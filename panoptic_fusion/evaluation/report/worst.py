"""The worst segments of each class: the largest ones that PQ counts as errors."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...data.annotation import label_extents
from .errors import ImageErrors

PER_CLASS = 12


def worst_of_image(errors: ImageErrors, gt_labels: np.ndarray, pred_labels: np.ndarray) -> list[list[Any]]:
    """Returns the largest errors of one image, at most 12 per class.

    A false positive that is merged or of low IoU is left out, because its false negatives are listed. So is a part of
    split ground truth that is missed.

    Args:
        errors: errors of the image.
        gt_labels, pred_labels: (h, w) positions of the segments in their lists, from 1; 0 is void.

    Returns:
        Lists [class, area, kind, IoU or None, side ("gt" or "pred"), n (position of the segment, from 1), box]. The box
        is [x0, y0, x1, y1] in fractions of width and height, or None for a segment without a pixel.
    """
    matching, found = errors.matching, []
    sides = (
        ("gt", matching.missed, errors.gt_kinds, matching.gt_classes, matching.gt_area, errors.iou, gt_labels),
        (
            "pred",
            matching.spurious,
            errors.pred_kinds,
            matching.pred_classes,
            matching.pred_area,
            errors.iou.T,
            pred_labels,
        ),
    )
    for side, wrong, kinds, classes, areas, iou, labels in sides:
        boxes = label_extents(labels, len(classes))[0] / (*labels.shape[::-1], *labels.shape[::-1])
        for index in np.flatnonzero(wrong).tolist():
            if side == "pred" and _is_listed(errors, index):
                continue
            best = round(float(iou[index].max(initial=0)), 4) or None
            box = boxes[index].round(4).tolist()
            entry = [int(classes[index]), int(areas[index]), str(kinds[index]), best, side, index + 1]
            found.append([*entry, box if box[2] > box[0] else None])
    return largest_per_class(found)


def _is_listed(errors: ImageErrors, p: int) -> bool:
    """Returns whether a false positive is listed with its ground truth."""
    kind = errors.pred_kinds[p]
    return kind in ("merged", "low iou") or (kind == "split" and errors.gt_kinds[errors.iou[:, p].argmax()] == "split")


def largest_per_class(entries: Sequence[list[Any]]) -> list[list[Any]]:
    """Returns the 12 largest entries per class, largest first; the first two values are class and area."""
    kept, number = [], {}
    for entry in sorted(entries, key=lambda entry: -entry[1]):
        number[entry[0]] = number.get(entry[0], 0) + 1
        if number[entry[0]] <= PER_CLASS:
            kept.append(entry)
    return kept

"""The worst segments of each class: the largest ones that PQ counts as errors."""

from collections.abc import Sequence
from typing import Any

from .errors import ImageErrors

PER_CLASS = 12


def worst_of_image(errors: ImageErrors) -> list[list[Any]]:
    """Returns the largest errors of one image as [class, area, kind, IoU or None, side, n], at most 12 per class.

    `side` is "gt" or "pred", and n the position of the segment in its list, from 1. A false positive that is merged or
    of low IoU is left out, because its false negatives are listed; so is one of split ground truth that is missed.
    """
    matching, found = errors.matching, []
    best = errors.iou.max(axis=1, initial=0), errors.iou.max(axis=0, initial=0)
    listed_twice = {"merged", "low iou"}
    for g in matching.missed.nonzero()[0].tolist():
        found.append(
            [*_entry(matching.gt_classes[g], matching.gt_area[g], errors.gt_kinds[g], best[0][g]), "gt", g + 1]
        )
    for p in matching.spurious.nonzero()[0].tolist():
        kind = errors.pred_kinds[p]
        around = errors.iou[:, p].argmax() if kind == "split" else None
        if kind in listed_twice or (around is not None and errors.gt_kinds[around] == "split"):
            continue
        found.append([*_entry(matching.pred_classes[p], matching.pred_area[p], kind, best[1][p]), "pred", p + 1])
    return largest_per_class(found)


def largest_per_class(entries: Sequence[list[Any]]) -> list[list[Any]]:
    """Returns the 12 largest entries per class, largest first; the first two values are class and area."""
    kept, number = [], {}
    for entry in sorted(entries, key=lambda entry: -entry[1]):
        number[entry[0]] = number.get(entry[0], 0) + 1
        if number[entry[0]] <= PER_CLASS:
            kept.append(entry)
    return kept


def _entry(cls: Any, area: Any, kind: Any, iou: float) -> list[Any]:
    return [int(cls), int(area), str(kind), round(float(iou), 4) or None]

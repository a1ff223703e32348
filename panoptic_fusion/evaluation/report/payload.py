"""Data of one image for the page's viewer: segment maps, segments and errors."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ...data.annotation import label_map
from ..files import ImageTask
from ..matching import ImageCounts
from .errors import ImageErrors
from .pictures import MAX_SIDE, codes_as_png, labels_as_png, reduced_map


def labels_of(ids: np.ndarray, segment_ids: Iterable[int], limit: int = MAX_SIDE) -> np.ndarray:
    """Returns a map (H, W) of ids reduced to a long side of `limit`, with the position of each id in the list, from 1.

    Void and ids that are not in the list become 0.
    """
    return label_map(reduced_map(ids, limit), [{"id": id} for id in segment_ids], report=lambda error: None)


def truth_payload(task: ImageTask, counts: ImageCounts, labels: np.ndarray) -> dict[str, Any]:
    """Returns the size of the maps and the data of the ground truth, whose `labels_of` are `labels`."""
    areas = counts.counts[1:].sum(axis=1).tolist()
    segments = [
        {"n": n, "category": cls, "area": area, "iscrowd": crowd}
        for n, ((_, cls, crowd), area) in enumerate(zip(task.gt_segments, areas, strict=True), start=1)
    ]
    return {"size": list(labels.shape), "ground_truth": {"map": labels_as_png(labels), "segments": segments}}


def prediction_payload(
    scores: Sequence[float | None], errors: ImageErrors, gt_labels: np.ndarray, labels: np.ndarray
) -> dict[str, Any]:
    """Returns the data of one prediction.

    Args:
        scores: score of each predicted segment, None if unknown.
        errors: errors of the image.
        gt_labels, labels: `labels_of` the ground truth and the prediction.
    """
    matching = errors.matching
    match = dict(zip(matching.p[matching.matched].tolist(), matching.g[matching.matched].tolist(), strict=True))
    segments = [
        {
            "n": p + 1,
            "category": int(matching.pred_classes[p]),
            "score": score,
            "area": int(matching.pred_area[p]),
            **_best(errors.iou[:, p]),
            "match": match[p] + 1 if p in match else None,
            "kind": str(errors.pred_kinds[p]),
        }
        for p, score in enumerate(scores)
    ]
    missed = [
        {"n": g + 1, "kind": str(errors.gt_kinds[g]), **_best(errors.iou[g])}
        for g in np.flatnonzero(matching.missed).tolist()
    ]
    codes = codes_as_png(errors.pixel_codes[gt_labels, labels])
    return {"map": labels_as_png(labels), "segments": segments, "missed": missed, "errors": codes}


def without_errors(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the data of a prediction whose ground truth is unknown."""
    unknown = dict.fromkeys(("iou", "best", "match", "kind"))
    return {**payload, "segments": [{**s, **unknown} for s in payload["segments"]], "missed": [], "errors": None}


def _best(iou: np.ndarray) -> dict[str, Any]:
    """Returns the largest IoU with a segment of the other side, and its position, from 1; None if all are 0."""
    if not iou.any():
        return {"iou": None, "best": None}
    return {"iou": round(float(iou.max()), 4), "best": int(iou.argmax()) + 1}

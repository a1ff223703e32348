"""Comparison of an exported network's outputs with PyTorch's.

Detections are compared as sets. Two runs that differ in the last digits may order equal scores differently, and then
suppress or cut off other boxes, so detections without a counterpart are excused if their score is tied.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .heads_graph import HeadsOutputs

Arrays = HeadsOutputs  # of numpy arrays


@dataclass(frozen=True)
class Tolerance:
    """Largest accepted differences.

    Attributes:
        absolute, relative: of semantic and mask logits; `relative` is a fraction of the largest absolute value.
        score: of the scores of two detections that match.
        iou: smallest IoU of their boxes.
        tie: scores that differ by this or less are equal.
        unmatched: accepted fraction of the detections whose score is not tied and that have no counterpart.
        near: difference of box coordinates in pixels up to which two masks cover the same pixels and are compared.
    """

    absolute: float
    relative: float
    score: float
    iou: float
    tie: float
    unmatched: float
    near: float


FLOAT32 = Tolerance(absolute=1e-3, relative=1e-3, score=1e-3, iou=0.99, tie=1e-4, unmatched=0.02, near=0.01)
FLOAT16 = Tolerance(absolute=1e-2, relative=0.15, score=0.15, iou=0.8, tie=5e-2, unmatched=0.5, near=0.5)
"""Finds errors of the conversion only: PyTorch's own float16 results of deep networks differ this much from float32."""


@dataclass(frozen=True)
class Agreement:
    """Result of a comparison.

    Attributes:
        sem_seg_logits, mask_logits: largest absolute differences, the latter over matched detections with equal boxes.
        detections: number of PyTorch's detections.
        matched: number of these with a counterpart.
        unexplained: number of detections of either side that have no counterpart and no tied score.
        problem: what disagrees, or "".
    """

    sem_seg_logits: float
    mask_logits: float
    detections: int
    matched: int
    unexplained: int
    problem: str


def compare(reference: Arrays, exported: Arrays, tolerance: Tolerance) -> Agreement:
    """Compares the outputs for the same batch.

    Args:
        reference, exported: outputs of PyTorch and of the exported network, as numpy arrays.
        tolerance: largest accepted differences.
    """
    expected, shape = reference.sem_seg_logits.shape, exported.sem_seg_logits.shape
    if shape != expected:
        return Agreement(np.inf, np.inf, len(reference.scores), 0, 0, f"sem_seg_logits are {shape}, not {expected}")
    logits = _difference(reference.sem_seg_logits, exported.sem_seg_logits)
    distance = distances(reference, exported, tolerance)
    rows, columns = np.isfinite(distance).any(1), np.isfinite(distance).any(0)
    near = rows & (distance.min(1, initial=np.inf) <= max(tolerance.near, distance.min(initial=np.inf)))
    partner = distance[near].argmin(1) if near.any() else np.zeros(0, int)
    masks = _difference(reference.mask_logits[near], exported.mask_logits[partner])
    excused = tied(reference, exported, tolerance.tie)
    alone = np.concatenate([~rows, ~columns])
    unexplained = int((alone & ~excused).sum())
    problem = ""
    if logits > _limit(reference.sem_seg_logits, tolerance):
        problem = f"sem_seg_logits differ by {logits:.2g}"
    elif masks > _limit(reference.mask_logits, tolerance):
        problem = f"mask_logits differ by {masks:.2g}"
    elif unexplained > tolerance.unmatched * len(alone):
        problem = f"{unexplained} of {len(alone)} detections have no counterpart"
    return Agreement(logits, masks, len(reference.scores), int(rows.sum()), unexplained, problem)


def distances(reference: Arrays, exported: Arrays, tolerance: Tolerance) -> np.ndarray:
    """Returns the distance of the boxes of each pair of detections that match, (R, R') float, else infinity.

    Detections match if they have the same image and class, an equal score and almost the same box. The distance is the
    largest difference of two coordinates in pixels.
    """
    same = reference.batch_index[:, None] == exported.batch_index
    same &= reference.classes[:, None] == exported.classes
    same &= np.abs(reference.scores[:, None] - exported.scores) <= tolerance.score
    same &= box_iou(reference.boxes, exported.boxes) >= tolerance.iou
    return np.where(same, np.abs(reference.boxes[:, None] - exported.boxes).max(-1), np.inf)


def tied(reference: Arrays, exported: Arrays, margin: float) -> np.ndarray:
    """Returns for the detections of both sides, (R + R',) bool, whether another result was equally likely.

    The score of such a detection is within `margin` of another detection's score on the same side, or of the image's
    lowest score, which is next to the last one that was cut off.
    """
    results = []
    for side in (reference, exported):
        near = np.abs(side.scores[:, None] - side.scores) <= margin
        near &= side.batch_index[:, None] == side.batch_index
        lowest = np.full(len(side.scores), np.inf)
        for index in np.unique(side.batch_index):
            own = side.batch_index == index
            lowest[own] = side.scores[own].min()
        results.append((near.sum(1) > 1) | (side.scores <= lowest + margin))
    return np.concatenate(results)


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the IoU of boxes (R, 4) and (R', 4), XYXY, as (R, R') float; 1 for equal boxes, even without an area."""
    a, b = a.astype(np.float64)[:, None], b.astype(np.float64)[None]
    sides = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None)
    inside = sides.prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - inside
    iou = np.divide(inside, union, out=np.zeros_like(inside), where=union > 0)
    return np.where(np.abs(a - b).max(-1) < 1e-2, 1.0, iou)


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the largest absolute difference; infinity if one side has a NaN where the other has a number."""
    if not a.size:
        return 0.0
    equal = (a == b) | (np.isnan(a) & np.isnan(b))
    return float(np.nan_to_num(np.where(equal, 0, np.abs(a - b)), nan=np.inf).max())


def _limit(reference: np.ndarray, tolerance: Tolerance) -> float:
    largest = float(np.abs(reference).max()) if reference.size else 0.0
    return tolerance.absolute + tolerance.relative * largest

"""Panoptic quality and related metrics, computed from integer maps.

The metrics are averaged over the classes that occur (see `PanopticQuality.compute`):

- PQ, SQ, RQ (Kirillov et al., Panoptic Segmentation), equal to the reference code (panopticapi) to the last digit;
- boundary PQ (Cheng et al. 2021, see `boundary.py`): PQ with the smaller of mask IoU and boundary IoU;
- PQ-dagger (Seamless Scene Segmentation, section 4): things as in PQ, stuff without the IoU > 0.5 rule;
- mIoU of the panoptic map collapsed to classes.

Shapes: G is the number of ground-truth segments of an image, P the number of predicted segments, and C = T + S the
number of classes. Class indices: thing t is t, stuff s is T + s, where T is the number of thing classes.

These rules follow the reference code, not the papers:

- A ground-truth segment covered by predicted void is a false negative. (The Seamless paper ignores ground-truth
  segments that are more than half covered by void; neither the reference code nor the published code does.)
- A crowd segment is never matched and is never a false negative. A prediction is not a false positive if more than half
  of it lies on void and on the crowd segment of its class. If an image has several crowd segments of a class, only the
  last one listed counts.
- A listed ground-truth segment without pixels is a false negative.

Differences from the reference code: the areas of ground-truth segments are counted in the map, not read from the JSON
(both are equal in a valid dataset), and an id in the ground-truth map that belongs to no segment is an error.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..errors import UserError
from .matching import ImageCounts, Matching, count_image

PQ_DAGGER_RULES = ("matched", "ground_truth")
_COLUMNS = ("tp", "fp", "fn", "iou_sum", "pairs", "pairs_iou_sum", "intersection", "gt_pixels", "pred_pixels")


class PanopticQuality:
    """Accumulator of PQ, PQ-dagger and mIoU, which keeps only sums over the images."""

    def __init__(self, num_things: int, num_stuff: int):
        """Initializes the accumulator.

        Args:
            num_things, num_stuff: numbers of thing and stuff classes, T and S; either can be 0.
        """
        self.num_things = num_things
        self.num_classes = num_things + num_stuff
        self.images = 0
        self._sums = np.zeros((len(_COLUMNS), self.num_classes))

    def update(
        self,
        pred_map: np.ndarray,
        pred_segments: Mapping[int, int],
        gt_map: np.ndarray,
        gt_segments: Iterable[tuple[int, int, bool]],
        *,
        name: str = "image",
    ) -> None:
        """Adds one image.

        Args:
            pred_map: (H, W) integer array of segment ids, 0 is void.
            pred_segments: mapping from segment id to class index in [0, T + S).
            gt_map: (H, W) integer array of segment ids, 0 is void.
            gt_segments: tuples (segment id, class index, is crowd), in the order of the JSON.
            name: name of the image in error messages.

        Raises:
            ValueError: the shapes differ; an id is in a map but not among its segments, is listed twice or is not in
                [1, 2^24); a predicted segment has no pixels; a class index is out of range; a map is not of integers.
        """
        self.add(count_image(pred_map, pred_segments, gt_map, gt_segments, num_classes=self.num_classes, name=name))

    def add(self, image: ImageCounts, *, boundary: bool = False) -> None:
        """Adds the counts of one image.

        Args:
            image: counts returned by `count_image`.
            boundary: whether to compute boundary PQ instead of PQ; the counts must then have `boundary_counts`.
        """
        self.add_matching(image.match(boundary=boundary))
        self._add_pixels(image.counts, image.gt_classes, image.pred_classes)
        self.images += 1

    def add_matching(self, matching: Matching) -> None:
        """Adds only the tp, fp, fn and IoU sums of a matching, without the pixel counts of the mIoU."""
        classes = matching.gt_classes[matching.g]
        self._add("tp", classes[matching.matched])
        self._add("fp", matching.pred_classes[matching.spurious])
        self._add("fn", matching.gt_classes[matching.missed])
        self._add("iou_sum", classes[matching.matched], matching.iou[matching.matched])
        self._add("pairs", classes)
        self._add("pairs_iou_sum", classes, matching.iou)

    def state(self) -> np.ndarray:
        """Returns all sums as a float64 vector (9 (T + S) + 1,) for reductions; counts are exact up to 2^53."""
        return np.append(self._sums, self.images)

    def sums_of(self, state: np.ndarray) -> np.ndarray:
        """Returns tp, fp, fn and the IoU sum of each class (4, T + S) of a `state()` of the same classes."""
        return state[: 4 * self.num_classes].reshape(4, -1)

    def merge(self, state: np.ndarray) -> None:
        """Adds the `state()` of another accumulator with the same classes.

        Raises:
            ValueError: the state belongs to a different number of classes.
        """
        if state.shape != (self._sums.size + 1,):
            raise ValueError(f"a state of shape {state.shape} does not belong to {self.num_classes} classes")
        self._sums += state[:-1].reshape(self._sums.shape)
        self.images += int(state[-1])

    def compute(self, pq_dagger: str = "matched") -> dict:
        """Returns the metrics of the images seen.

        A class counts if it occurs: tp + fp + fn > 0 for PQ and PQ-dagger, at least one ground-truth pixel for the mIoU
        (as in detectron2's SemSegEvaluator). An average over no classes is NaN.

        Args:
            pq_dagger: divisor of the IoU sum over the pairs M_c = {(s, s^): IoU > 0} of a stuff class c. "matched"
                divides by |M_c|, as printed in the paper; a segment without any overlap is then not penalized.
                "ground_truth" divides by the number of ground-truth segments |S_c|; such a segment is then penalized. A
                class that occurs without any such pair gets 0 in both cases. The paper assumes at most one segment per
                stuff class and image, and no crowd stuff. If there are several segments, every pair counts; crowds are
                ignored.

        Returns:
            "all", "things", "stuff": {"pq", "sq", "rq", "pq_dagger", "miou": float in [0, 1] or NaN, "n": number of
            classes that count for PQ, "tp", "fp", "fn": int, sums over the classes}; "per_class": a list by class index
            of {"pq", "sq", "rq", "pq_dagger", "iou": float or NaN, "tp", "fp", "fn": int, "iou_sum": float}; "images":
            int. Python numbers only.

        Raises:
            UserError: `pq_dagger` is unknown.
        """
        check_pq_dagger(pq_dagger)
        tp, fp, fn, iou_sum, pairs, pairs_iou_sum, intersection, gt_pixels, pred_pixels = self._sums
        occurs = tp + fp + fn > 0
        weight = tp + 0.5 * fp + 0.5 * fn
        is_stuff = np.arange(self.num_classes) >= self.num_things
        pq = pq_of_classes(tp, fp, fn, iou_sum)
        dagger = _ratio(pairs_iou_sum, pairs if pq_dagger == "matched" else tp + fn)
        values = {
            "pq": pq,
            "sq": np.where(occurs, _ratio(iou_sum, tp), np.nan),
            "rq": np.where(occurs, _ratio(tp, weight), np.nan),
            "pq_dagger": np.where(occurs & is_stuff, dagger, pq),
            "iou": np.where(gt_pixels > 0, _ratio(intersection, gt_pixels + pred_pixels - intersection), np.nan),
        }
        counts = {"tp": tp.astype(int), "fp": fp.astype(int), "fn": fn.astype(int), "iou_sum": iou_sum}
        columns = {key: column.tolist() for key, column in {**values, **counts}.items()}
        result = {"images": self.images}
        for group, member in (("all", np.ones_like(is_stuff)), ("things", ~is_stuff), ("stuff", is_stuff)):
            means = {"miou" if key == "iou" else key: _mean(column[member]) for key, column in values.items()}
            totals = {key: int(counts[key][member].sum()) for key in ("tp", "fp", "fn")}
            result[group] = {**means, "n": int((occurs & member).sum()), **totals}
        result["per_class"] = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return result

    def _add_pixels(self, counts: np.ndarray, gt_classes: np.ndarray, pred_classes: np.ndarray) -> None:
        """Adds the pixels of the maps collapsed to classes: void ground truth is ignored, crowds keep their class."""
        g, p = np.nonzero(gt_classes[:, None] == pred_classes)
        self._add("intersection", gt_classes[g], counts[1:, 1:][g, p])
        self._add("gt_pixels", gt_classes, counts[1:].sum(axis=1))
        self._add("pred_pixels", pred_classes, counts[1:, 1:].sum(axis=0))

    def _add(self, column: str, classes: np.ndarray, weights: np.ndarray | None = None) -> None:
        self._sums[_COLUMNS.index(column)] += np.bincount(classes, weights, minlength=self.num_classes)


def check_pq_dagger(pq_dagger: str) -> None:
    """Raises UserError unless `pq_dagger` is one of `PQ_DAGGER_RULES`."""
    if pq_dagger not in PQ_DAGGER_RULES:
        raise UserError(f"pq_dagger is {pq_dagger!r}; it can be one of {', '.join(PQ_DAGGER_RULES)}")


def class_index(segment: Mapping[str, Any], num_things: int) -> int:
    """Returns the class index of an item of segments_info with `isthing` and a contiguous `category_id`."""
    category_id = int(segment["category_id"])
    return category_id if segment["isthing"] else num_things + category_id


def pq_of_classes(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray, iou_sum: np.ndarray) -> np.ndarray:
    """Returns the PQ in [0, 1] of each class from its counts, arrays of one shape; NaN if a class does not occur."""
    return np.where(tp + fp + fn > 0, _ratio(iou_sum, tp + 0.5 * fp + 0.5 * fn), np.nan)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Returns numerator / denominator, and 0 where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)


def _mean(values: np.ndarray) -> float:
    """Returns the mean of the values that are not NaN, or NaN if there are none."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")

"""Panoptic quality: integer maps in, numbers out.

The measures, with Y the classes that occur in the ground truth or in the predictions:

- PQ, SQ, RQ (Kirillov et al., Panoptic Segmentation), to the last digit those of the reference code (panopticapi);
- boundary PQ (Cheng et al. 2021, see `boundary.py`): PQ with the smaller one of mask IoU and boundary IoU;
- PQ-dagger (Seamless Scene Segmentation, section 4): things as in PQ, stuff without the IoU > 0.5 rule;
- mIoU of the panoptic map collapsed to classes.

Shape shorthand in this module: G: ground-truth segments of an image, P: predicted segments, C = T + S: classes.
Class index: thing t is t, stuff s is T + s (T: number of thing classes).

What follows the reference code rather than the texts:

- A ground-truth segment that predicted void covers is a false negative. (The Seamless paper forgives those that
  void covers by more than half; neither the reference code nor the authors' own does.)
- A crowd segment is never matched and never a false negative. A prediction of which more than half lies on void
  and on the crowd segment of its class is no false positive; of several crowd segments of a class in an image, only
  the last one listed counts.
- A listed ground-truth segment without a pixel is a false negative.

What differs from the reference code: areas of ground-truth segments are counted in the map, not read from the
json (equal in a valid data set), and an id in the ground-truth map that no segment has is an error.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from .matching import ImageCounts, Matching, count_image

PQ_DAGGER_RULES = ("matched", "ground_truth")
_COLUMNS = ("tp", "fp", "fn", "iou_sum", "pairs", "pairs_iou_sum", "intersection", "gt_pixels", "pred_pixels")


class PanopticQuality:
    """Accumulates the sums behind PQ, PQ-dagger and mIoU image by image; keeps nothing of an image but its sums."""

    def __init__(self, num_things: int, num_stuff: int):
        """
        Args:
            num_things, num_stuff: T and S, the numbers of classes; either can be 0.
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
            pred_segments: from segment id to class index in [0, T + S).
            gt_map: (H, W) integer array of segment ids, 0 is void.
            gt_segments: (segment id, class index, is crowd), in the order of the json.
            name: what an error calls the image.

        Raises:
            ValueError: the shapes differ; an id is in a map and not among its segments, is listed twice or is not in
                [1, 2^24); a predicted segment has no pixel; a class index is out of range; a map is not of integers.
        """
        self.add(count_image(pred_map, pred_segments, gt_map, gt_segments, num_classes=self.num_classes, name=name))

    def add(self, image: ImageCounts, *, boundary: bool = False) -> None:
        """Adds the counts of one image.

        Args:
            image: see `count_image`.
            boundary: PQ is boundary PQ; then the counts must have `boundary_counts`.
        """
        self.add_matching(image.match(boundary=boundary))
        self._add_pixels(image.counts, image.gt_classes, image.pred_classes)
        self.images += 1

    def add_matching(self, matching: Matching) -> None:
        """Adds tp, fp, fn and the sums of the IoU of matched segments, and nothing else."""
        classes = matching.gt_classes[matching.g]
        self._add("tp", classes[matching.matched])
        self._add("fp", matching.pred_classes[matching.spurious])
        self._add("fn", matching.gt_classes[matching.missed])
        self._add("iou_sum", classes[matching.matched], matching.iou[matching.matched])
        self._add("pairs", classes)
        self._add("pairs_iou_sum", classes, matching.iou)

    def state(self) -> np.ndarray:
        """All sums as one float64 vector, (9 (T + S) + 1,); counts are exact up to 2^53. What a reduction adds up."""
        return np.append(self._sums, self.images)

    def merge(self, state: np.ndarray) -> None:
        """Adds the `state()` of another accumulator of the same classes.

        Raises:
            ValueError: it belongs to another number of classes.
        """
        if state.shape != (self._sums.size + 1,):
            raise ValueError(f"a state of shape {state.shape} does not belong to {self.num_classes} classes")
        self._sums += state[:-1].reshape(self._sums.shape)
        self.images += int(state[-1])

    def compute(self, pq_dagger: str = "matched") -> dict:
        """The measures of the images seen.

        A class counts where it occurs: tp + fp + fn > 0 for PQ and PQ-dagger, a ground-truth pixel for the mIoU (as in
        detectron2's SemSegEvaluator). What averages over no class at all is NaN.

        Args:
            pq_dagger: what the sum of the IoU over the pairs M_c = {(s, s^): IoU > 0} of a stuff class c is divided
                by. "matched": by |M_c|, as the paper prints it; a segment without any overlap then costs nothing.
                "ground_truth": by the number of ground-truth segments |S_c|; then it costs. A class that occurs
                without any such pair has 0 in both. The paper has at most one segment of a stuff class in an image,
                and crowd stuff does not occur; where it has several, every pair counts, and crowds are left out.

        Returns:
            "all", "things", "stuff": {"pq", "sq", "rq", "pq_dagger", "miou": float in [0, 1] or NaN, "n": number of
            classes that count for PQ, "tp", "fp", "fn": int, sums over the classes}; "per_class": a list by class index
            of {"pq", "sq", "rq", "pq_dagger", "iou": float or NaN, "tp", "fp", "fn": int, "iou_sum": float}; "images":
            int. Python numbers only.

        Raises:
            ValueError: an unknown `pq_dagger`.
        """
        if pq_dagger not in PQ_DAGGER_RULES:
            raise ValueError(f"pq_dagger is {pq_dagger!r}; it can be one of {', '.join(PQ_DAGGER_RULES)}")
        tp, fp, fn, iou_sum, pairs, pairs_iou_sum, intersection, gt_pixels, pred_pixels = self._sums
        occurs = tp + fp + fn > 0
        weight = tp + 0.5 * fp + 0.5 * fn
        is_stuff = np.arange(self.num_classes) >= self.num_things
        pq = np.where(occurs, _ratio(iou_sum, weight), np.nan)
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
        """Adds the pixel counts of the maps collapsed to classes: void ground truth left out, crowds as their class."""
        g, p = np.nonzero(gt_classes[:, None] == pred_classes)
        self._add("intersection", gt_classes[g], counts[1:, 1:][g, p])
        self._add("gt_pixels", gt_classes, counts[1:].sum(axis=1))
        self._add("pred_pixels", pred_classes, counts[1:, 1:].sum(axis=0))

    def _add(self, column: str, classes: np.ndarray, weights: np.ndarray | None = None) -> None:
        self._sums[_COLUMNS.index(column)] += np.bincount(classes, weights, minlength=self.num_classes)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """numerator / denominator, 0 where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)


def _mean(values: np.ndarray) -> float:
    """Mean of the values that are not NaN; NaN where there is none."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")

"""Panoptic quality: integer maps in, numbers out.

The measures, with Y the classes that occur in the ground truth or in the predictions:

- PQ, SQ, RQ (Kirillov et al., Panoptic Segmentation), to the last digit those of the reference code (panopticapi);
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

MAX_SEGMENT_ID = 256**3 - 1  # the largest id that the PNG format can hold
PQ_DAGGER_RULES = ("matched", "ground_truth")
_STRIP = 1 << 18  # pixels that are counted at a time: the temporaries stay in the cache
_COLUMNS = ("tp", "fp", "fn", "iou_sum", "pairs", "pairs_iou_sum", "intersection", "gt_pixels", "pred_pixels")


def confusion_matrix(gt_map: np.ndarray, gt_ids: np.ndarray, pred_map: np.ndarray, pred_ids: np.ndarray) -> np.ndarray:
    """Counts the pixels of each pair of a ground-truth and a predicted segment.

    Maps are constant over long runs of pixels: the ids are looked up, and counted, once for each run.

    Args:
        gt_map, pred_map: integer arrays of the same shape, ids >= 0, 0 is void.
        gt_ids (G,), pred_ids (P,): distinct ids in [1, 2^24).

    Returns:
        (G + 2, P + 2) int64. Row 0 is void, rows 1..G are `gt_ids`, row G + 1 is every other id; columns likewise.

    Raises:
        ValueError: an id is negative.
    """
    rows, columns = len(gt_ids) + 2, len(pred_ids) + 2
    gt_table, pred_table = _row_table(gt_ids), _row_table(pred_ids)
    gt_flat, pred_flat = gt_map.reshape(-1), pred_map.reshape(-1)
    counts = np.zeros(rows * columns)
    for start in range(0, gt_flat.size, _STRIP):
        gt, pred = gt_flat[start : start + _STRIP], pred_flat[start : start + _STRIP]
        is_first = np.ones(gt.size, bool)  # the pixel begins a run: it differs from the one before it
        np.not_equal(gt[1:], gt[:-1], out=is_first[1:])
        is_first[1:] |= pred[1:] != pred[:-1]
        first = np.flatnonzero(is_first)
        cell = _look_up(gt_table, gt[first]) * columns
        cell += _look_up(pred_table, pred[first])
        counts += np.bincount(cell, weights=np.diff(first, append=gt.size), minlength=counts.size)
    return counts.astype(np.int64).reshape(rows, columns)


def _row_table(ids: np.ndarray) -> np.ndarray:
    """(largest id + 2,) int32 from id to row - (N + 1), so that "other", the fresh and never touched pages, is 0."""
    table = np.zeros(ids.max(initial=0) + 2, np.int32)
    table[ids] = np.arange(len(ids)) - len(ids)
    table[0] = -len(ids) - 1
    return table


def _look_up(table: np.ndarray, ids: np.ndarray) -> np.ndarray:
    low = ids.min()
    if low < 0:
        raise ValueError(f"segment id {int(low)} is negative")
    return table[np.minimum(ids, len(table) - 1)].astype(np.intp) - int(table[0])


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
        if pred_map.shape != gt_map.shape:
            sizes = " and ".join("x".join(map(str, m.shape)) for m in (pred_map, gt_map))
            raise ValueError(f"{name}: predicted map and ground truth must have one size (HxW), but are {sizes}")
        if not (np.issubdtype(pred_map.dtype, np.integer) and np.issubdtype(gt_map.dtype, np.integer)):
            raise ValueError(f"{name}: maps must be of an integer type, but are {pred_map.dtype} and {gt_map.dtype}")
        gt_segments = list(gt_segments)
        gt_ids, gt_classes = self._check([s[:2] for s in gt_segments], f"{name}, ground truth")
        pred_ids, pred_classes = self._check(list(pred_segments.items()), f"{name}, prediction")
        crowd = np.array([bool(s[2]) for s in gt_segments], bool)
        try:
            counts = confusion_matrix(gt_map, gt_ids, pred_map, pred_ids)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        _check_no_other_id(counts[-1].any(), gt_map, gt_ids, f"{name}, ground truth")
        _check_no_other_id(counts[:, -1].any(), pred_map, pred_ids, f"{name}, prediction")
        counts = counts[:-1, :-1]
        empty = pred_ids[counts[:, 1:].sum(axis=0) == 0]
        if empty.size:
            raise ValueError(f"{name}, prediction: segment {empty[0]} has no pixel in the map")
        self._add_segments(counts, gt_classes, crowd, pred_classes)
        self._add_pixels(counts, gt_classes, pred_classes)
        self.images += 1

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

    def _check(self, segments: list[tuple[int, int]], where: str) -> tuple[np.ndarray, np.ndarray]:
        """Ids and class indices of listed segments, (N,) and (N,) int64."""
        table = np.array(segments, np.int64).reshape(-1, 2)
        ids, classes = table[:, 0], table[:, 1]
        for id, cls in segments:
            if not 0 < id <= MAX_SEGMENT_ID:
                raise ValueError(f"{where}: segment id {id} lies outside [1, 2^24)")
            if not 0 <= cls < self.num_classes:
                raise ValueError(f"{where}: segment {id} has class index {cls}, of {self.num_classes} classes")
        if len(set(ids.tolist())) != len(ids):
            values, times = np.unique(ids, return_counts=True)
            raise ValueError(f"{where}: segment {values[times > 1][0]} is listed twice")
        return ids, classes

    def _add_segments(
        self, counts: np.ndarray, gt_classes: np.ndarray, crowd: np.ndarray, pred_classes: np.ndarray
    ) -> None:
        """Adds tp, fp, fn and the IoU sums. counts (G + 1, P + 1), row and column 0 are void; the others as named."""
        gt_area, pred_area, on_void = counts[1:].sum(axis=1), counts[:, 1:].sum(axis=0), counts[0, 1:]
        comparable = (gt_classes[:, None] == pred_classes) & ~crowd[:, None]
        g, p = np.nonzero(comparable & (counts[1:, 1:] > 0))
        intersection = counts[1:, 1:][g, p]
        iou = intersection / (pred_area[p] + gt_area[g] - intersection - on_void[p])
        match = iou > 0.5
        missed, spurious = ~crowd, np.ones(len(pred_classes), bool)
        missed[g[match]] = False
        spurious[p[match]] = False
        crowd_row = np.zeros(self.num_classes, np.int64)
        crowd_row[gt_classes[crowd]] = np.flatnonzero(crowd) + 1  # of equal classes, the last one is kept
        row = crowd_row[pred_classes]
        forgiven = on_void + np.where(row > 0, counts[row, np.arange(len(pred_classes)) + 1], 0)
        spurious &= forgiven / pred_area <= 0.5
        self._add("tp", gt_classes[g[match]])
        self._add("fp", pred_classes[spurious])
        self._add("fn", gt_classes[missed])
        self._add("iou_sum", gt_classes[g[match]], iou[match])
        self._add("pairs", gt_classes[g])
        self._add("pairs_iou_sum", gt_classes[g], iou)

    def _add_pixels(self, counts: np.ndarray, gt_classes: np.ndarray, pred_classes: np.ndarray) -> None:
        """Adds the pixel counts of the maps collapsed to classes: void ground truth left out, crowds as their class."""
        g, p = np.nonzero(gt_classes[:, None] == pred_classes)
        self._add("intersection", gt_classes[g], counts[1:, 1:][g, p])
        self._add("gt_pixels", gt_classes, counts[1:].sum(axis=1))
        self._add("pred_pixels", pred_classes, counts[1:, 1:].sum(axis=0))

    def _add(self, column: str, classes: np.ndarray, weights: np.ndarray | None = None) -> None:
        self._sums[_COLUMNS.index(column)] += np.bincount(classes, weights, minlength=self.num_classes)


def _check_no_other_id(found: bool, segment_map: np.ndarray, ids: np.ndarray, where: str) -> None:
    if found:
        other = np.setdiff1d(segment_map, np.append(ids, 0))[0]
        raise ValueError(f"{where}: segment id {other} is in the map and not among its segments")


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """numerator / denominator, 0 where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)


def _mean(values: np.ndarray) -> float:
    """Mean of the values that are not NaN; NaN where there is none."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")

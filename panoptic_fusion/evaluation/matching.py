"""Matches the predicted segments of an image with its ground-truth segments.

Shapes: G is the number of ground-truth segments of an image, P the number of predicted segments, M the number of pairs.
Class indices: thing t is t, stuff s is T + s, where T is the number of thing classes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from ..compiled import MIN_PIXELS, compiled
from .boundary import boundary_width, is_boundary
from .matching_kernel import SIGNATURE, count_pairs

MAX_SEGMENT_ID = 256**3 - 1  # the largest id that the PNG format can hold
_STRIP = 1 << 18  # pixels counted at a time, so that the temporaries stay in the CPU cache


def confusion_matrix(
    gt_map: np.ndarray,
    gt_ids: np.ndarray,
    pred_map: np.ndarray,
    pred_ids: np.ndarray,
    kinds: np.ndarray | None = None,
) -> np.ndarray:
    """Counts the pixels of each pair of a ground-truth segment and a predicted segment.

    Maps are constant over long runs of pixels, so the ids are looked up and counted once per run.

    Args:
        gt_map, pred_map: integer arrays of the same shape with ids >= 0, 0 is void.
        gt_ids (G,), pred_ids (P,): distinct ids in [1, 2^24).
        kinds: uint8 array of the same shape with values in 0..3, which are counted separately.

    Returns:
        (G + 2, P + 2) int64. Row 0 is void, rows 1..G are `gt_ids`, row G + 1 is every other id; columns likewise. With
        `kinds`, (G + 2, P + 2, 4).

    Raises:
        ValueError: an id is negative.
    """
    shape = (len(gt_ids) + 2, len(pred_ids) + 2, 1 if kinds is None else 4)
    maps = [m.reshape(-1) for m in (gt_map, pred_map, kinds) if m is not None]
    table = _counted_by_numba(maps, gt_ids, pred_ids, shape)
    if table is None:
        table = _counted_by_numpy(maps, gt_ids, pred_ids, shape)
    return table[..., 0] if kinds is None else table


def _counted_by_numba(maps: list[np.ndarray], gt_ids: np.ndarray, pred_ids: np.ndarray, shape: tuple[int, int, int]):
    """Returns the table of `confusion_matrix`; None without numba, for small maps or other types, or with a bad id."""
    if maps[0].size < MIN_PIXELS or maps[0].dtype != np.int32 or maps[1].dtype != np.int32:
        return None
    kernel = compiled(count_pairs, SIGNATURE.format(kinds="uint8[::1]" if len(maps) == 3 else "none"))
    if kernel is None:
        return None
    table = np.zeros(shape, np.int64)
    gt, pred, kinds, gt_ids, pred_ids = (
        None if array is None else np.ascontiguousarray(array) for array in (*maps, None)[:3] + (gt_ids, pred_ids)
    )
    return table if kernel(gt, pred, kinds, gt_ids, pred_ids, table) else None


def _counted_by_numpy(maps: list[np.ndarray], gt_ids: np.ndarray, pred_ids: np.ndarray, shape: tuple[int, int, int]):
    """Returns the table of `confusion_matrix`. Raises ValueError for a negative id."""
    counts = np.zeros(shape).reshape(-1)
    for start in range(0, maps[0].size, _STRIP):
        gt, pred, *kind = (m[start : start + _STRIP] for m in maps)
        is_first = np.ones(gt.size, bool)  # the pixel starts a run: it differs from the previous pixel
        np.not_equal(gt[1:], gt[:-1], out=is_first[1:])
        for other in (pred, *kind):
            is_first[1:] |= other[1:] != other[:-1]
        first = np.flatnonzero(is_first)
        cell = _rows_of(gt[first], gt_ids) * shape[1] + _rows_of(pred[first], pred_ids)
        if kind:
            cell = cell * shape[2] + kind[0][first]
        counts += np.bincount(cell, weights=np.diff(first, append=gt.size), minlength=counts.size)
    return counts.astype(np.int64).reshape(shape)


def _rows_of(found: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Returns the row of `confusion_matrix` of each id found in a map."""
    low = found.min()
    if low < 0:
        raise ValueError(f"segment id {int(low)} is negative")
    order = np.argsort(ids)
    known = np.append(0, ids[order])
    place = np.minimum(np.searchsorted(known, found), len(ids))
    return np.where(known[place] == found, np.append(0, order + 1)[place], len(ids) + 1)


@dataclass(frozen=True)
class Matching:
    """Matching of the segments of one image.

    Attributes:
        gt_classes (G,), pred_classes (P,): int64 class indices.
        gt_area (G,), pred_area (P,): int64 areas in pixels.
        g, p (M,): int64 indices of overlapping ground-truth and predicted segments of the same class, without crowds.
        iou (M,): float64 IoU of the pairs; for boundary PQ, the smaller of mask IoU and boundary IoU.
        matched (M,): bool, pairs that are true positives.
        missed (G,): bool, ground-truth segments that are false negatives.
        spurious (P,): bool, predicted segments that are false positives.
    """

    gt_classes: np.ndarray
    pred_classes: np.ndarray
    gt_area: np.ndarray
    pred_area: np.ndarray
    g: np.ndarray
    p: np.ndarray
    iou: np.ndarray
    matched: np.ndarray
    missed: np.ndarray
    spurious: np.ndarray

    def of_size(self, low: float, high: float) -> "Matching":
        """Returns the segments of at least `low` and fewer than `high` pixels; ground-truth areas select the pairs."""
        gt, pred = ((low <= area) & (area < high) for area in (self.gt_area, self.pred_area))
        kept = gt[self.g]
        return replace(
            self,
            g=self.g[kept],
            p=self.p[kept],
            iou=self.iou[kept],
            matched=self.matched[kept],
            missed=self.missed & gt,
            spurious=self.spurious & pred,
        )


@dataclass(frozen=True)
class ImageCounts:
    """Pixel counts of each pair of segments of one image, from which all metrics are computed.

    Attributes:
        counts: (G + 1, P + 1) int64 pixel counts; row and column 0 are void.
        gt_classes (G,), crowd (G,), pred_classes (P,): int64 class index, bool, int64 class index.
        boundary_counts: (G + 2, P + 2) int64 pixel counts of the boundary maps, whose last row and column are inner
            pixels, or None.
    """

    counts: np.ndarray
    gt_classes: np.ndarray
    crowd: np.ndarray
    pred_classes: np.ndarray
    boundary_counts: np.ndarray | None

    def match(self, *, boundary: bool = False) -> Matching:
        """Matches the segments by mask IoU or, with `boundary`, by the smaller of mask IoU and boundary IoU."""
        rim = self.boundary_counts if boundary else None
        return match_segments(self.counts, self.gt_classes, self.crowd, self.pred_classes, rim)


def count_image(
    pred_map: np.ndarray,
    pred_segments: Mapping[int, int],
    gt_map: np.ndarray,
    gt_segments: Iterable[tuple[int, int, bool]],
    *,
    num_classes: int,
    boundary: bool = False,
    name: str = "image",
) -> ImageCounts:
    """Counts the pixels of one image and checks both maps.

    Args:
        pred_map, pred_segments, gt_map, gt_segments, name: see `PanopticQuality.update`.
        num_classes: total number of classes, T + S.
        boundary: whether to also count the pixels of the boundary maps.

    Raises:
        ValueError: see `PanopticQuality.update`.
    """
    if pred_map.shape != gt_map.shape:
        sizes = " and ".join("x".join(map(str, m.shape)) for m in (pred_map, gt_map))
        raise ValueError(f"{name}: predicted map and ground truth must have one size (HxW), but are {sizes}")
    if not (np.issubdtype(pred_map.dtype, np.integer) and np.issubdtype(gt_map.dtype, np.integer)):
        raise ValueError(f"{name}: maps must be of an integer type, but are {pred_map.dtype} and {gt_map.dtype}")
    gt_segments = list(gt_segments)
    gt_ids, gt_classes = _check([s[:2] for s in gt_segments], num_classes, f"{name}, ground truth")
    pred_ids, pred_classes = _check(list(pred_segments.items()), num_classes, f"{name}, prediction")
    crowd = np.array([bool(s[2]) for s in gt_segments], bool)
    kinds = boundary_kinds(gt_map, pred_map) if boundary else None
    try:
        counts = confusion_matrix(gt_map, gt_ids, pred_map, pred_ids, kinds)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    rim = _boundary_counts(counts[:-1, :-1]) if boundary else None
    counts = counts.sum(axis=2) if boundary else counts
    _check_no_other_id(counts[-1].any(), gt_map, gt_ids, f"{name}, ground truth")
    _check_no_other_id(counts[:, -1].any(), pred_map, pred_ids, f"{name}, prediction")
    counts = counts[:-1, :-1]
    empty = pred_ids[counts[:, 1:].sum(axis=0) == 0]
    if empty.size:
        raise ValueError(f"{name}, prediction: segment {empty[0]} has no pixel in the map")
    return ImageCounts(counts, gt_classes, crowd, pred_classes, rim)


def boundary_kinds(gt_map: np.ndarray, pred_map: np.ndarray) -> np.ndarray:
    """Returns, per pixel, whether it is an inner pixel of its predicted (1) and of its ground-truth segment (2): uint8.

    Both add up to 3. Void has no inner pixels. The maps are integers (H, W), 0 is void.
    """
    width = boundary_width(gt_map.shape)
    gt, pred = (~is_boundary(m, width) & (m != 0) for m in (gt_map, pred_map))
    return 2 * gt.view(np.uint8) + pred.view(np.uint8)


def _boundary_counts(counts: np.ndarray) -> np.ndarray:
    """Returns `ImageCounts.boundary_counts` for the counts (G + 1, P + 1, 4) by `boundary_kinds`."""
    rows, columns = counts.shape[:2]
    table = np.empty((rows + 1, columns + 1), np.int64)
    table[:-1, :-1], table[:-1, -1] = counts[..., 0], counts[..., 1].sum(axis=1)
    table[-1, :-1], table[-1, -1] = counts[..., 2].sum(axis=0), counts[..., 3].sum()
    return table


def match_segments(
    counts: np.ndarray,
    gt_classes: np.ndarray,
    crowd: np.ndarray,
    pred_classes: np.ndarray,
    boundary_counts: np.ndarray | None = None,
) -> Matching:
    """Matches the segments of one image.

    Args:
        counts: (G + 1, P + 1) int64 pixel counts of each pair of segments; row and column 0 are void.
        gt_classes (G,), crowd (G,), pred_classes (P,): int64 class index, bool, int64 class index of the segments.
        boundary_counts: for boundary PQ, the pixel counts of the maps in which only boundary pixels have the id of
            their segment. One additional row and column at the end count the inner pixels. None uses the mask IoU.
    """
    gt_area, pred_area, on_void = counts[1:].sum(axis=1), counts[:, 1:].sum(axis=0), counts[0, 1:]
    comparable = (gt_classes[:, None] == pred_classes) & ~crowd[:, None]
    g, p = np.nonzero(comparable & (counts[1:, 1:] > 0))
    iou = _pair_iou(counts, g, p, gt_area, pred_area)
    if boundary_counts is not None:
        gt_rim, pred_rim = boundary_counts[1:-1].sum(axis=1), boundary_counts[:, 1:-1].sum(axis=0)
        iou = np.minimum(iou, _pair_iou(boundary_counts, g, p, gt_rim, pred_rim))
    matched = iou > 0.5
    missed, spurious = ~crowd, np.ones(len(pred_classes), bool)
    missed[g[matched]] = False
    spurious[p[matched]] = False
    crowd_row = np.zeros(max(gt_classes.max(initial=-1), pred_classes.max(initial=-1)) + 1, np.int64)
    crowd_row[gt_classes[crowd]] = np.flatnonzero(crowd) + 1  # the last crowd of a class is kept
    row = crowd_row[pred_classes]
    forgiven = on_void + np.where(row > 0, counts[row, np.arange(len(pred_classes)) + 1], 0)
    spurious &= forgiven / pred_area <= 0.5
    return Matching(gt_classes, pred_classes, gt_area, pred_area, g, p, iou, matched, missed, spurious)


def _pair_iou(counts: np.ndarray, g: np.ndarray, p: np.ndarray, gt_area: np.ndarray, pred_area: np.ndarray):
    """Returns the IoU of the pairs (g, p); predicted pixels on void ground truth are ignored."""
    intersection = counts[1:, 1:][g, p]
    return intersection / (pred_area[p] + gt_area[g] - intersection - counts[0, 1:][p])


def _check(segments: list[tuple[int, int]], num_classes: int, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Checks listed segments; returns their ids (N,) and class indices (N,), int64."""
    table = np.array(segments, np.int64).reshape(-1, 2)
    ids, classes = table[:, 0], table[:, 1]
    for id, cls in segments:
        if not 0 < id <= MAX_SEGMENT_ID:
            raise ValueError(f"{where}: segment id {id} lies outside [1, 2^24)")
        if not 0 <= cls < num_classes:
            raise ValueError(f"{where}: segment {id} has class index {cls}, of {num_classes} classes")
    if len(set(ids.tolist())) != len(ids):
        values, times = np.unique(ids, return_counts=True)
        raise ValueError(f"{where}: segment {values[times > 1][0]} is listed twice")
    return ids, classes


def _check_no_other_id(found: bool, segment_map: np.ndarray, ids: np.ndarray, where: str) -> None:
    if found:
        other = np.setdiff1d(segment_map, np.append(ids, 0))[0]
        raise ValueError(f"{where}: segment id {other} is in the map and not among its segments")

"""Pairs of overlapping instances whose order of painting the ranking scores change, for tools/ranking_picture.py."""

import itertools
from dataclasses import dataclass

import numpy as np
import torch

from panoptic_fusion.modeling.fusion.greedy import Scene
from panoptic_fusion.modeling.fusion.mask_crops import Window

LEAST_OVERLAP = 0.2  # of the smaller of two masks


@dataclass
class Pair:
    """Two overlapping instances; of each list the first is the one of the higher detection score.

    Attributes:
        rows: which instances.
        masks: (2, H, W) bool.
        names: of their classes.
        detection, ranking: their scores.
        changed: share of the smaller mask that one of the two holds in one order and the other in the other order.
    """

    rows: tuple[int, int]
    masks: np.ndarray
    names: list[str]
    detection: list[float]
    ranking: list[float]
    changed: float


def owners(panoptic_seg: torch.Tensor, segments_info: list[dict]) -> np.ndarray:
    """(H, W) int: the row of the instance at each pixel, -1 where there is none."""
    table = np.full(1 + max((s["id"] for s in segments_info), default=0), -1)
    for s in segments_info:
        table[s["id"]] = s.get("instance_id", -1)
    return table[panoptic_seg.cpu().numpy()]


def find_pair(
    scene: Scene, ranking: list[float], before: np.ndarray, after: np.ndarray, names: list[str]
) -> Pair | None:
    """The pair of which most changes hands, of several the one that overlaps most; None if no two overlap.

    Args:
        scene: of one image.
        ranking: scores of the instances in `scene.kept`.
        before, after: (H, W) the `owners` in both orders.
        names: of the thing classes.
    """
    windows = [scene.crops.windows[row] for row in scene.kept]
    crops = [scene.crops[row].cpu().numpy() for row in scene.kept]
    areas = [int(crop.sum()) for crop in crops]
    best, best_key = None, (-1.0, -1.0)
    for i, j in itertools.combinations(range(len(crops)), 2):
        common = _common(windows[i], windows[j])
        smaller = min(areas[i], areas[j])
        if common is None or smaller == 0:
            continue
        both = _part(crops[i], windows[i], common) & _part(crops[j], windows[j], common)
        overlap = both.sum() / smaller
        if overlap < LEAST_OVERLAP:
            continue
        pair = (scene.kept[i], scene.kept[j])
        first, second = before[common][both], after[common][both]
        changed = float((np.isin(first, pair) & np.isin(second, pair) & (first != second)).sum() / smaller)
        if (changed, overlap) > best_key:
            best, best_key = (i, j), (changed, overlap)
    if best is None:
        return None
    masks = np.zeros((2, *scene.crops.size), bool)
    for mask, k in zip(masks, best, strict=True):
        mask[windows[k]] = crops[k]
    rows = tuple(scene.kept[k] for k in best)
    classes = [names[scene.classes[row]] for row in rows]
    return Pair(rows, masks, classes, [scene.scores[row] for row in rows], [ranking[k] for k in best], best_key[0])


def _common(a: Window, b: Window) -> Window | None:
    """The window of what two windows share; None if that is nothing."""
    common = tuple(slice(max(x.start, y.start), min(x.stop, y.stop)) for x, y in zip(a, b, strict=True))
    return common if all(x.start < x.stop for x in common) else None


def _part(crop: np.ndarray, window: Window, inner: Window) -> np.ndarray:
    """What a crop (h, w) of `window` holds in `inner`, which lies in it."""
    return crop[tuple(slice(y.start - x.start, y.stop - x.start) for x, y in zip(window, inner, strict=True))]


def most_telling(found: list[tuple], count: int) -> list[tuple]:
    """Of (pair, ...), those of the largest changes, first the largest of each two classes, then the second, ..."""
    turns, keys = {}, {}
    for entry in sorted(found, key=lambda x: -x[0].changed):
        classes = frozenset(entry[0].names)
        turns[classes] = turns.get(classes, 0) + 1
        keys[id(entry)] = (turns[classes], -entry[0].changed)
    return sorted(found, key=lambda entry: keys[id(entry)])[:count]

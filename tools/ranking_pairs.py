"""Finds overlapping instances whose paint order the ranking scores change, for tools/ranking_picture.py."""

import itertools
from dataclasses import dataclass

import numpy as np
import torch

from panoptic_fusion.modeling.fusion.greedy import Scene
from panoptic_fusion.modeling.fusion.mask_crops import Window

LEAST_OVERLAP = 0.2  # minimum overlap, as a fraction of the smaller mask


@dataclass
class Pair:
    """Two overlapping instances; the first entry of each list has the higher detection score.

    Attributes:
        rows: indices of the instances.
        masks: (2, H, W) bool masks.
        names: names of the classes.
        detection, ranking: detection and ranking scores.
        changed: fraction of the smaller mask that belongs to a different instance of the pair in the other paint order.
    """

    rows: tuple[int, int]
    masks: np.ndarray
    names: list[str]
    detection: list[float]
    ranking: list[float]
    changed: float


def owners(panoptic_seg: torch.Tensor, segments_info: list[dict]) -> np.ndarray:
    """Returns the index of the instance at each pixel, (H, W) int, -1 where there is none."""
    table = np.full(1 + max((s["id"] for s in segments_info), default=0), -1)
    for s in segments_info:
        table[s["id"]] = s.get("instance_id", -1)
    return table[panoptic_seg.cpu().numpy()]


def find_pair(
    scene: Scene, ranking: list[float], before: np.ndarray, after: np.ndarray, names: list[str]
) -> Pair | None:
    """Returns the pair with the largest change (ties: the largest overlap), or None if no two instances overlap.

    Args:
        scene: scene of one image.
        ranking: ranking scores of the instances in `scene.kept`.
        before, after: (H, W) `owners` in both paint orders.
        names: names of the thing classes.
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
    """Returns the intersection of two windows, or None if it is empty."""
    common = tuple(slice(max(x.start, y.start), min(x.stop, y.stop)) for x, y in zip(a, b, strict=True))
    return common if all(x.start < x.stop for x in common) else None


def _part(crop: np.ndarray, window: Window, inner: Window) -> np.ndarray:
    """Returns the part of a crop (h, w) of `window` that lies in `inner`, a window inside `window`."""
    return crop[tuple(slice(y.start - x.start, y.stop - x.start) for x, y in zip(window, inner, strict=True))]


def most_telling(found: list[tuple], count: int) -> list[tuple]:
    """Selects entries (pair, ...) with the largest changes: first the largest per class pair, then the second, ..."""
    turns, keys = {}, {}
    for entry in sorted(found, key=lambda x: -x[0].changed):
        classes = frozenset(entry[0].names)
        turns[classes] = turns.get(classes, 0) + 1
        keys[id(entry)] = (turns[classes], -entry[0].changed)
    return sorted(found, key=lambda entry: keys[id(entry)])[:count]

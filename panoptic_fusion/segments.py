"""Segments of a panoptic map, from counts of its pixels: what the fusions in `modeling` and `runtime` share.

This module only needs numpy and, for connected regions, OpenCV, so a runtime without torch can use it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .decisions import is_large_stuff, is_mostly_stuff


def list_segments(
    thing_areas: Sequence[int],
    stuff_areas: Sequence[int],
    *,
    rows: Sequence[int],
    classes: Sequence[int],
    scores: Sequence[float],
    stuff_area_limit: int,
) -> tuple[list[int], list[int], list[dict]]:
    """Lists the segments of a panoptic map: first things in the given order, then stuff by ascending class.

    An instance without a pixel and stuff with fewer than `stuff_area_limit` pixels have no segment.

    Args:
        thing_areas: number of pixels of each of N instances.
        stuff_areas: number of pixels of each stuff class.
        rows, classes, scores: row in the fusion's instances, thing id and score of each of the N instances.
        stuff_area_limit: minimum number of pixels of a stuff segment.

    Returns:
        The segment id of each instance, counted from 1, and 0 without a segment.
        The same of each stuff class.
        segments_info, as described in `PanopticFusion.forward`.
    """
    segments: list[dict] = []
    thing_ids, stuff_ids = [0] * len(thing_areas), [0] * len(stuff_areas)
    for i, (area, row, thing, score) in enumerate(zip(thing_areas, rows, classes, scores, strict=True)):
        if area > 0:
            thing_ids[i] = len(segments) + 1
            segment = {"id": thing_ids[i], "isthing": True, "category_id": thing, "score": score}
            segments.append({**segment, "instance_id": row, "area": area})
    for channel, area in enumerate(stuff_areas):
        if is_large_stuff(area, stuff_area_limit):
            stuff_ids[channel] = len(segments) + 1
            segments.append({"id": stuff_ids[channel], "isthing": False, "category_id": channel, "area": area})
    return thing_ids, stuff_ids, segments


def with_areas(segments_info: Sequence[Mapping[str, Any]], areas: Sequence[int]) -> list[dict]:
    """Returns segments with new areas, without those that have no pixel; `areas[id]` is the area of a segment."""
    return [{**segment, "area": areas[segment["id"]]} for segment in segments_info if areas[segment["id"]] > 0]


def most_id(segments_info: Sequence[Mapping[str, Any]]) -> int:
    """Returns the highest segment id, or 0 without segments."""
    return max((segment["id"] for segment in segments_info), default=0)


def majority_stuff_class(counts: np.ndarray) -> np.ndarray:
    """Returns the instances that become stuff in UPSNet, because one stuff class labels at least half of their pixels.

    If the class of an instance is not the mode of the semantic labels of its pixels, it becomes that mode if the mode
    is a stuff class with a frequency of at least 0.5. Otherwise the instance keeps its class. In a tie of modes the
    lowest channel counts. A stuff class with half of the pixels is therefore always the mode, and the split of the rest
    among thing classes has no effect.

    As in the published code, a frequency of exactly 0.5 is enough. The paper (section 3.1) has "larger than 0.5".

    Args:
        counts: (N, S + 1) int64, number of pixels of each instance per semantic label: S stuff classes, then any thing.

    Returns:
        (N,) int64, the stuff class, or -1 for an instance that keeps its class.
    """
    counts = np.asarray(counts)
    if counts.shape[1] == 1:
        return np.full(len(counts), -1)
    stuff = counts[:, :-1]
    return np.where(is_mostly_stuff(stuff.max(axis=1), counts.sum(axis=1)), stuff.argmax(axis=1), -1)


def segments_of_head(
    counts: np.ndarray,
    *,
    rows: Sequence[int],
    classes: Sequence[int],
    scores: Sequence[float],
    num_stuff: int,
    stuff_area_limit: int,
    keep_instance_classes: bool,
) -> tuple[np.ndarray, list[dict]]:
    """Converts the labels of UPSNet's panoptic head to segments.

    Instances that become stuff are merged with the pixels of that stuff class. Stuff with fewer than `stuff_area_limit`
    pixels then becomes void. There is no minimum area for things.

    Args:
        counts: (S + N + 1, S + 1) int64, number of pixels per label (S stuff classes, N instances, void) and semantic
            label (S stuff classes, then any thing).
        rows, classes, scores, stuff_area_limit: see `list_segments`.
        num_stuff: S.
        keep_instance_classes: whether every instance keeps its class, so that none becomes stuff.

    Returns:
        (S + N + 1,) int32, the segment id of each label, 0 for void; and segments_info.
    """
    target = np.arange(len(counts))  # the label that each label becomes
    if not keep_instance_classes:
        majority = majority_stuff_class(counts[num_stuff:-1])
        target[num_stuff:-1] = np.where(majority < 0, target[num_stuff:-1], majority)
    areas = np.zeros(len(counts), np.int64)
    np.add.at(areas, target, counts.sum(axis=1))
    things, stuff, segments_info = list_segments(
        areas[num_stuff:-1].tolist(), areas[:num_stuff].tolist(),
        rows=rows, classes=classes, scores=scores, stuff_area_limit=stuff_area_limit,
    )  # fmt: skip
    return np.array([*stuff, *things, 0], np.int32)[target], segments_info


def small_regions(labels: np.ndarray, num_stuff: int, limit: int) -> np.ndarray:
    """Returns the pixels of the small connected regions of every stuff class, (H, W) bool (OANet, section 4.2).

    Pixels that touch at a side or corner are connected.

    Args:
        labels: (H, W) integers; the stuff classes are 0..S-1, other labels are not considered.
        num_stuff: S.
        limit: number of pixels; regions with fewer are small.
    """
    import cv2  # not needed for the other functions

    small = np.zeros(labels.shape, bool)
    for channel in np.unique(labels[labels < num_stuff]):
        _, regions = cv2.connectedComponents((labels == channel).astype(np.uint8), connectivity=8)
        areas = np.bincount(regions.ravel())
        small |= (regions > 0) & (areas < limit)[regions]
    return small

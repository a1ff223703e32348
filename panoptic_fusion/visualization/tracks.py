"""Follows the things of a video from frame to frame by the overlap of their masks, so that they keep their colors.

Shape shorthand: H, W: size of a frame; N, M: number of things in two frames.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from panoptic_fusion.data.annotation import label_map

MIN_IOU = 0.3  # minimum mask IoU of two appearances of one thing
MAX_GAP = 5  # maximum number of frames in which a thing may be missing


def mask_iou(before: np.ndarray, now: np.ndarray, num: tuple[int, int]) -> np.ndarray:
    """Returns the mask IoU (N, M) float64 of all pairs of labels of two maps; 0 for a label without pixels.

    Args:
        before: (H, W) integer labels in 0..N, 0 = no thing.
        now: (H, W) integer labels in 0..M.
        num: N and M.
    """
    n, m = num
    pairs = np.bincount((before.astype(np.int64) * (m + 1) + now).ravel(), minlength=(n + 1) * (m + 1))
    pairs = pairs.reshape(n + 1, m + 1)
    union = pairs.sum(axis=1, keepdims=True) + pairs.sum(axis=0, keepdims=True) - pairs
    return (pairs / np.maximum(union, 1))[1:, 1:]


def match_things(
    iou: np.ndarray, classes_before: Sequence[int], classes_now: Sequence[int], min_iou: float = MIN_IOU
) -> list[tuple[int, int]]:
    """Matches the things of two frames one to one, greedily: the pair with the highest IoU first.

    Only things of the same class with an IoU of at least `min_iou` are matched. Equal IoUs are matched in the order of
    their indices, so that the result is deterministic.

    Args:
        iou: (N, M) IoU of all pairs.
        classes_before: N classes.
        classes_now: M classes.
        min_iou: minimum IoU of a pair.

    Returns:
        (index before, index now) of each match.
    """
    allowed = (iou >= min_iou) & (np.asarray(classes_before)[:, None] == np.asarray(classes_now)[None, :])
    rows, columns = np.nonzero(allowed)
    matches: dict[int, int] = {}  # index now -> index before
    for pair in np.argsort(-iou[rows, columns], kind="stable"):
        i, j = int(rows[pair]), int(columns[pair])
        if j not in matches and i not in matches.values():
            matches[j] = i
    return [(i, j) for j, i in matches.items()]


class _Frame(NamedTuple):
    labels: np.ndarray  # (H, W) int32, 0 = no thing, i + 1 = thing i
    classes: list[int]  # one per thing
    tracks: list[int]  # one per thing


class ThingTracks:
    """Gives the things of consecutive frames the numbers of their tracks, from 1.

    A thing is first compared with the things of the previous frame, then with those that were last seen one frame
    earlier, and so on up to MAX_GAP missing frames. A thing without a match starts a track. The memory is MAX_GAP + 1
    label maps.
    """

    def __init__(self) -> None:
        """Initializes the tracks of one video."""
        self._past: deque[_Frame] = deque(maxlen=MAX_GAP + 1)  # the latest frame first
        self._count = 0

    def update(self, ids: np.ndarray, segments_info: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Adds the key `track_id` to the things of the next frame.

        Args:
            ids: (H, W) integer map of segment ids.
            segments_info: segments with `id`, `isthing` and `category_id`; not modified.

        Returns:
            The segments in the same order; segments of stuff are unchanged.
        """
        things = [segment for segment in segments_info if segment["isthing"]]
        classes = [segment["category_id"] for segment in things]
        labels = label_map(ids, things, report=lambda fault: None)
        tracks = self._find_tracks(labels, classes)
        self._past.appendleft(_Frame(labels, classes, tracks))
        numbers = {segment["id"]: track for segment, track in zip(things, tracks, strict=True)}
        return [{**s, "track_id": numbers[s["id"]]} if s["isthing"] else dict(s) for s in segments_info]

    def _find_tracks(self, labels: np.ndarray, classes: list[int]) -> list[int]:
        """Returns the track of each thing: one of the past frames, or a new one."""
        tracks = [0] * len(classes)
        seen: set[int] = set()
        for past in self._past:
            if 0 not in tracks or past.labels.shape != labels.shape:
                break
            old = np.array([track not in seen for track in past.tracks], bool)  # seen: compared with a later frame
            if old.any():
                iou = mask_iou(past.labels, labels, (len(past.tracks), len(tracks)))
                iou[~old] = iou[:, np.array(tracks) > 0] = -1
                for i, j in match_things(iou, past.classes, classes):
                    tracks[j] = past.tracks[i]
            seen.update(past.tracks)
        for j, track in enumerate(tracks):
            if not track:
                self._count += 1
                tracks[j] = self._count
        return tracks

"""Things followed through a video: hand-computed cases, and oracles on sets of pixels."""

from types import SimpleNamespace

import numpy as np
import pytest

from panoptic_fusion.visualization import ThingTracks, draw_panoptic
from panoptic_fusion.visualization.tracks import MAX_GAP, MIN_IOU, mask_iou, match_things


def test_iou_of_hand_made_maps():
    """Label 1 (4 pixels) and 1 (2 of them and 1 more): 2 / 5. Label 2 is gone in the second map."""
    before = np.array([[1, 1, 0, 2], [1, 1, 0, 2]])
    now = np.array([[1, 1, 1, 0], [0, 0, 0, 3]])
    expected = [[2 / 5, 0, 0], [0, 0, 1 / 2]]
    assert mask_iou(before, now, (2, 3)) == pytest.approx(np.array(expected))


@pytest.mark.parametrize("num", [(0, 0), (0, 3), (3, 0), (4, 2), (5, 7)])
def test_iou_of_random_maps(num):
    rng = np.random.default_rng(sum(num))
    for _ in range(10):
        before, now = (rng.integers(0, n + 1, (9, 11)) for n in num)
        found = mask_iou(before, now, num)
        assert found.shape == num
        for i, j in np.ndindex(*num):
            a, b = ({tuple(p) for p in np.argwhere(each == k + 1)} for each, k in ((before, i), (now, j)))
            assert found[i, j] == pytest.approx(len(a & b) / len(a | b) if a | b else 0)


def test_greedy_matches_by_hand():
    """The best pair comes first, although 0.6 + 0.7 is more than 0.8 + 0.3; other classes and low IoUs never match."""
    iou = np.array([[0.8, 0.6, 0.0], [0.7, 0.3, 0.0], [0.0, 0.0, 0.29]])
    assert sorted(match_things(iou, [5, 5, 5], [5, 5, 5], min_iou=0.3)) == [(0, 0), (1, 1)]
    assert sorted(match_things(iou, [5, 6, 5], [6, 5, 5], min_iou=0.2)) == [(0, 1), (1, 0), (2, 2)]
    assert match_things(iou, [1, 2, 3], [4, 5, 6]) == []
    assert match_things(np.zeros((0, 2)), [], [1, 1]) == [] == match_things(np.zeros((2, 0)), [1, 1], [])


def test_equal_ious_are_matched_in_order():
    iou = np.full((3, 3), 0.5)
    assert sorted(match_things(iou, [0] * 3, [0] * 3)) == [(0, 0), (1, 1), (2, 2)]


def brute_force(iou: np.ndarray, before: list[int], now: list[int], least: float) -> set[tuple[int, int]]:
    """Takes the best remaining pair until none is left; the first of equal ones."""
    found: set[tuple[int, int]] = set()
    while True:
        best = None
        for i, j in np.ndindex(*iou.shape):
            free = all(i != a and j != b for a, b in found)
            if free and before[i] == now[j] and iou[i, j] >= least and (best is None or iou[i, j] > iou[best]):
                best = (i, j)
        if best is None:
            return found
        found.add(best)


def test_matches_against_brute_force():
    rng = np.random.default_rng(0)
    for _ in range(200):
        n, m = rng.integers(0, 7, 2)
        iou = rng.integers(0, 6, (n, m)) / 5  # with many equal values
        before, now = rng.integers(0, 2, n).tolist(), rng.integers(0, 2, m).tolist()
        assert set(match_things(iou, before, now, 0.3)) == brute_force(iou, before, now, 0.3)


def frame(*boxes: tuple[int, int, int, int, int], size=(20, 60), order=None) -> tuple[np.ndarray, list[dict]]:
    """A map with a stuff segment 99 and a thing per (x, y, width, height, class), with the ids of `order`."""
    ids = np.full(size, 99, np.int32)
    info = [{"id": 99, "isthing": False, "category_id": 0}]
    for number, (x, y, width, height, category) in zip(order or range(1, 99), boxes, strict=False):
        ids[y : y + height, x : x + width] = number
        info.append({"id": number, "isthing": True, "category_id": category})
    return ids, info


def tracks_of(tracks: ThingTracks, *args, **kwargs) -> list[int]:
    """Tracks of the things of the next frame, in the order of the boxes."""
    found = tracks.update(*frame(*args, **kwargs))
    assert "track_id" not in found[0]
    return [segment["track_id"] for segment in found[1:]]


def test_tracks_by_hand():
    """Boxes of 10 pixels that move by 4: IoU 6/14 with the previous frame, 2/18 with the one before it."""
    tracks = ThingTracks()
    assert tracks_of(tracks, (0, 0, 10, 10, 0), (30, 0, 10, 10, 0)) == [1, 2]
    assert tracks_of(tracks, (4, 0, 10, 10, 0), (30, 0, 10, 10, 0), order=[7, 3]) == [1, 2]  # other ids
    assert tracks_of(tracks, (30, 0, 10, 10, 0), (8, 0, 10, 10, 0)) == [2, 1]  # other order
    assert tracks_of(tracks, (12, 0, 10, 10, 1), (30, 0, 10, 10, 0)) == [3, 2]  # other class: another thing
    assert tracks_of(tracks, (16, 0, 10, 10, 0), (30, 0, 10, 10, 0)) == [4, 2]  # 2/18 with where 1 was seen last
    assert tracks_of(tracks) == []
    assert tracks_of(tracks, (30, 0, 10, 10, 0), (45, 0, 10, 10, 0)) == [2, 5]


@pytest.mark.parametrize("gap", [0, 1, MAX_GAP, MAX_GAP + 1])
def test_a_gap(gap: int):
    tracks = ThingTracks()
    tracks_of(tracks, (0, 0, 10, 10, 0), (30, 0, 10, 10, 0))
    for _ in range(gap):
        assert tracks_of(tracks, (30, 0, 10, 10, 0)) == [2]
    assert tracks_of(tracks, (0, 0, 10, 10, 0), (30, 0, 10, 10, 0)) == [1 if gap <= MAX_GAP else 3, 2]


def test_a_track_is_compared_where_it_was_seen_last():
    """1 moves on from its first place, so a new thing at this place is not 1; and 1 is given to one thing only."""
    tracks = ThingTracks()
    for x in (0, 5, 10):
        assert tracks_of(tracks, (x, 0, 20, 10, 0)) == [1]
    assert tracks_of(tracks, (0, 10, 20, 10, 0), (10, 0, 20, 10, 0)) == [2, 1]
    assert tracks_of(tracks, (30, 0, 20, 10, 0), (0, 10, 20, 10, 0)) == [3, 2]


def test_a_frame_of_another_size_starts_new_tracks():
    tracks = ThingTracks()
    assert tracks_of(tracks, (0, 0, 10, 10, 0)) == [1]
    assert tracks_of(tracks, (0, 0, 10, 10, 0), size=(30, 60)) == [2]


def slow_tracks(video: list[tuple[np.ndarray, list[dict]]]) -> list[dict[int, int]]:
    """{segment id: track} of each frame, with a set of pixels per track and the frame in which it was seen last."""
    last: dict[int, tuple[int, int, set]] = {}  # track: (frame, class, pixels)
    result = []
    for time, (ids, info) in enumerate(video):
        things = {s["id"]: (s["category_id"], {*map(tuple, np.argwhere(ids == s["id"]))}) for s in info if s["isthing"]}
        found: dict[int, int] = {}
        for age in range(1, MAX_GAP + 2):
            old = [t for t, (seen, _, _) in last.items() if seen == time - age and t not in found.values()]
            new = [i for i in things if i not in found]
            iou = np.zeros((len(old), len(new)))
            for i, j in np.ndindex(*iou.shape):
                a, b = last[old[i]][2], things[new[j]][1]
                iou[i, j] = len(a & b) / len(a | b) if a | b else 0
            pairs = brute_force(iou, [last[t][1] for t in old], [things[i][0] for i in new], MIN_IOU)
            found |= {new[j]: old[i] for i, j in pairs}
        for segment_id in things:
            found.setdefault(segment_id, max([*last, *found.values()], default=0) + 1)
        last |= {track: (time, *things[segment_id]) for segment_id, track in found.items()}
        result.append(found)
    return result


def test_tracks_against_pixel_sets():
    """Random boxes that move, vanish, appear and cover each other, with ids in random order."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        boxes = rng.integers(0, 20, (4, 2))
        classes, video = rng.integers(0, 2, 4), []
        for _ in range(12):
            boxes = np.clip(boxes + rng.integers(-3, 4, boxes.shape), 0, 24)
            shown = [(x, y, 9, 9, int(c)) for (x, y), c in zip(boxes, classes, strict=True) if rng.random() < 0.7]
            video.append(frame(*shown, size=(32, 32), order=(rng.permutation(90) + 1).tolist()))
        tracks = ThingTracks()
        found = [{s["id"]: s["track_id"] for s in tracks.update(*each) if s["isthing"]} for each in video]
        assert found == slow_tracks(video)


def test_a_thing_keeps_its_color():
    """Without tracks, the colors of two cars depend on the order of their ids."""
    metadata = SimpleNamespace(
        thing_classes=[""], thing_colors=[(200, 0, 0)], stuff_classes=[""], stuff_colors=[(0, 0, 200)]
    )
    cars, image = [(5, 5, 10, 10, 0), (35, 5, 10, 10, 0)], np.full((20, 60, 3), 90, np.uint8)
    tracks, with_tracks, without = ThingTracks(), [], []
    for order in ([1, 2], [2, 1]):
        ids, info = frame(*cars, order=order)
        without.append(draw_panoptic(image, ids, info, metadata))
        with_tracks.append(draw_panoptic(image, ids, tracks.update(ids, info), metadata))
    assert np.array_equal(*with_tracks) and np.array_equal(with_tracks[0], without[0])
    assert not np.array_equal(*without)

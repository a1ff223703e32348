"""Boundary pixels, and boundary PQ by its definition."""

import cv2
import numpy as np
import pytest
from panoptic_cases import NUM_STUFF, NUM_THINGS, Pair, random_pair

from panoptic_fusion.evaluation.boundary import boundary_width, is_boundary
from panoptic_fusion.evaluation.matching import count_image
from panoptic_fusion.evaluation.panoptic_quality import PanopticQuality


def eroded_boundary(mask: np.ndarray, width: int) -> np.ndarray:
    """The definition: the pixels that repeated erosion by a 3x3 square takes away, with nothing outside the image."""
    padded = np.pad(mask.astype(np.uint8), 1)
    inner = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width)[1:-1, 1:-1]
    return mask & (inner == 0)


def test_the_boundary_of_a_square():
    labels = np.zeros((9, 9), np.int32)
    labels[2:7, 2:7] = 5
    expected = np.zeros((9, 9), bool)
    expected[2:7, 2:7] = True
    expected[3:6, 3:6] = False
    assert (is_boundary(labels, 1) & (labels == 5) == expected).all()
    assert is_boundary(np.full((3, 3), 7), 1).tolist() == [[True] * 3, [True, False, True], [True] * 3]


@pytest.mark.parametrize("size, expected", [((10, 10), 1), ((480, 640), 16), ((1024, 2048), 46), ((1, 1), 1)])
def test_the_width_is_two_hundredths_of_the_diagonal(size, expected):
    assert boundary_width(size) == expected


def test_two_filters_find_the_boundaries_of_all_segments():
    rng = np.random.default_rng(0)
    for _ in range(200):
        height, width = rng.integers(1, 40, 2)
        labels = np.kron(rng.integers(0, 4, (height // 4 + 1, width // 4 + 1)), np.ones((4, 4), int))[:height, :width]
        d = int(rng.choice([*range(1, 8), 60]))
        found = is_boundary(labels, d)
        for label in np.unique(labels):
            assert (found & (labels == label) == eroded_boundary(labels == label, d)).all()


def slow_sums(pair, num_classes: int) -> np.ndarray:
    """tp, fp, fn and the sum of IoU by class, segment by segment: (4, C)."""
    sums = np.zeros((4, num_classes))
    width = boundary_width(pair.gt_map.shape)
    void, matched_gt, matched_pred, crowd_of = pair.gt_map == 0, set(), set(), {}
    for gt_id, cls, crowd in pair.gt_segments:
        gt = pair.gt_map == gt_id
        if crowd:
            crowd_of[cls] = gt
            continue
        for pred_id, pred_cls, _ in pair.pred_segments:
            pred = pair.pred_map == pred_id
            if pred_cls != cls or not (gt & pred).any():
                continue
            gt_rim, pred_rim = eroded_boundary(gt, width), eroded_boundary(pred, width)
            iou = (gt & pred).sum() / ((gt | pred) & ~(void & pred)).sum()
            rim_iou = (gt_rim & pred_rim).sum() / ((gt_rim | pred_rim) & ~(void & pred_rim)).sum()
            if min(iou, rim_iou) > 0.5:
                sums[0, cls] += 1
                sums[3, cls] += min(iou, rim_iou)
                matched_gt.add(gt_id)
                matched_pred.add(pred_id)
    for gt_id, cls, crowd in pair.gt_segments:
        sums[2, cls] += not crowd and gt_id not in matched_gt
    for pred_id, cls, _ in pair.pred_segments:
        pred = pair.pred_map == pred_id
        forgiven = (pred & void).sum() + (pred & crowd_of[cls]).sum() if cls in crowd_of else (pred & void).sum()
        sums[1, cls] += pred_id not in matched_pred and forgiven / pred.sum() <= 0.5
    return sums


def near_pair(rng) -> Pair:
    """A random ground truth at four times its size, and as the prediction the same, moved by up to two pixels."""
    pair = random_pair(rng, height=12, width=16, empty_gt_segments=False)
    gt_map = np.kron(pair.gt_map, np.ones((4, 4), pair.gt_map.dtype))
    pred_map = np.roll(gt_map, rng.integers(-2, 3, 2), (0, 1))
    return Pair(pred_map, [(i, c, False) for i, c, _ in pair.gt_segments], gt_map, pair.gt_segments)


def boundary_sums(pair, num_things: int, num_stuff: int) -> np.ndarray:
    quality = PanopticQuality(num_things, num_stuff)
    image = count_image(
        pair.pred_map,
        {s[0]: s[1] for s in pair.pred_segments},
        pair.gt_map,
        pair.gt_segments,
        num_classes=num_things + num_stuff,
        boundary=True,
    )
    quality.add(image, boundary=True)
    return np.array([[row[key] for row in quality.compute()["per_class"]] for key in ("tp", "fp", "fn", "iou_sum")])


def test_boundary_pq_equals_its_definition_on_random_pairs():
    rng = np.random.default_rng(1)
    matched = 0
    for i in range(300):
        pair = random_pair(rng) if i % 2 else near_pair(rng)
        expected = slow_sums(pair, NUM_THINGS + NUM_STUFF)
        assert boundary_sums(pair, NUM_THINGS, NUM_STUFF) == pytest.approx(expected)
        matched += expected[0].sum()
    assert matched > 100


def test_a_dilated_mask_keeps_pq_and_loses_boundary_pq():
    """The paper's point (its figure 1): the mask IoU of a large object hardly notices its contour."""
    gt_map, pred_map = np.ones((100, 100), np.int32), np.ones((100, 100), np.int32)
    gt_map[20:80, 20:80] = 2  # 60 x 60
    pred_map[17:83, 17:83] = 2  # 66 x 66: IoU 3600 / 4356 = 0.826; the rims of width 3 do not meet
    image = count_image(pred_map, {1: 1, 2: 0}, gt_map, [(1, 1, False), (2, 0, False)], num_classes=2, boundary=True)
    things = [PanopticQuality(1, 1), PanopticQuality(1, 1)]
    for quality, boundary in zip(things, (False, True), strict=True):
        quality.add(image, boundary=boundary)
    pq, boundary_pq = (q.compute()["things"]["pq"] for q in things)
    assert pq == pytest.approx(3600 / 4356)
    assert boundary_pq == 0
    assert boundary_width((100, 100)) == 3


def test_matching_by_size():
    gt_map = np.zeros((4, 8), np.int32)
    gt_map[:, :2], gt_map[:, 2:4], gt_map[:, 4:5] = 1, 2, 3  # 8, 8 and 4 pixels
    pred_map = np.zeros((4, 8), np.int32)
    pred_map[:, :2], pred_map[:, 4:5] = 1, 2
    matching = count_image(
        pred_map, {1: 0, 2: 0}, gt_map, [(1, 0, False), (2, 0, False), (3, 0, False)], num_classes=1
    ).match()
    small, large = matching.of_size(0, 8), matching.of_size(8, np.inf)
    assert (small.matched.sum(), small.missed.sum(), small.spurious.sum()) == (1, 0, 0)
    assert (large.matched.sum(), large.missed.sum(), large.spurious.sum()) == (1, 1, 0)

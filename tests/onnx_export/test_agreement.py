"""Comparison of two results: what is accepted and what is not."""

import numpy as np
import pytest

from panoptic_fusion.onnx_export.agreement import FLOAT32, box_iou, compare
from panoptic_fusion.onnx_export.heads_graph import HeadsOutputs


def outputs(boxes, scores, classes, *, masks=None, logits=None, index=None) -> HeadsOutputs:
    count = len(boxes)
    return HeadsOutputs(
        np.zeros((1, 3, 4, 4), np.float32) if logits is None else logits,
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array(classes, np.int64),
        np.zeros((count, 2, 2), np.float32) if masks is None else masks,
        np.zeros(count, np.int64) if index is None else np.array(index),
    )


BOXES = [[0, 0, 10, 10], [20, 20, 40, 60], [50, 5, 90, 30]]
THREE = outputs(BOXES, [0.9, 0.8, 0.7], [0, 1, 0])


def test_equal_results_agree_in_any_order():
    order = [2, 0, 1]
    shuffled = outputs([BOXES[i] for i in order], [0.7, 0.9, 0.8], [0, 0, 1])
    found = compare(THREE, shuffled, FLOAT32)
    assert (found.problem, found.detections, found.matched, found.unexplained) == ("", 3, 3, 0)


@pytest.mark.parametrize(
    "other",
    [
        outputs(BOXES, [0.9, 0.8, 0.7], [0, 0, 0]),  # another class
        outputs(BOXES, [0.9, 0.79, 0.7], [0, 1, 0]),  # another score
        outputs([BOXES[0], [20, 20, 40, 61], BOXES[2]], [0.9, 0.8, 0.7], [0, 1, 0]),  # IoU 40 / 41
        outputs([BOXES[0], BOXES[2]], [0.9, 0.7], [0, 0]),  # one is missing
        outputs([*BOXES, [3, 3, 9, 9]], [0.9, 0.8, 0.7, 0.75], [0, 1, 0, 1]),  # one too many
        outputs(BOXES, [0.9, 0.8, 0.7], [0, 1, 0], index=[0, 1, 1]),  # another image
    ],
)
def test_other_detections_disagree(other):
    assert "have no counterpart" in compare(THREE, other, FLOAT32).problem
    assert "have no counterpart" in compare(other, THREE, FLOAT32).problem


def test_logits():
    far = THREE.sem_seg_logits + np.float32(0.01)
    assert "sem_seg_logits differ by 0.01" in compare(THREE, THREE._replace(sem_seg_logits=far), FLOAT32).problem
    masks = THREE.mask_logits.copy()
    masks[1, 0, 0] = 0.5
    found = compare(THREE, THREE._replace(mask_logits=masks), FLOAT32)
    assert (found.problem, found.mask_logits) == ("mask_logits differ by 0.5", 0.5)
    nan = THREE.sem_seg_logits.copy()
    nan[0, 0, 0, 0] = np.nan
    assert "differ by inf" in compare(THREE, THREE._replace(sem_seg_logits=nan), FLOAT32).problem
    both = THREE._replace(sem_seg_logits=nan)
    assert compare(both, both, FLOAT32).problem == ""
    smaller = THREE._replace(sem_seg_logits=THREE.sem_seg_logits[:, :, :2])
    assert "not (1, 3, 4, 4)" in compare(THREE, smaller, FLOAT32).problem


def test_only_tied_scores_excuse_a_missing_detection():
    """Of two overlapping boxes with equal scores, either one may survive; the last score may be cut off."""
    ours = outputs([[0, 0, 10, 10], [100, 0, 110, 10], [50, 0, 60, 10]], [0.9, 0.89995, 0.3], [0, 0, 0])
    theirs = outputs([[2, 0, 12, 10], [102, 0, 112, 10], [50, 20, 60, 30]], [0.89998, 0.9, 0.3], [0, 0, 0])
    found = compare(ours, theirs, FLOAT32)
    assert (found.matched, found.unexplained, found.problem) == (0, 0, "")
    apart = ours._replace(scores=np.array([0.9, 0.8997, 0.3], np.float32))
    assert compare(apart, theirs, FLOAT32).unexplained == 2


def test_no_detections():
    none = outputs([], [], [])
    assert compare(none, none, FLOAT32).problem == ""
    assert compare(THREE, none, FLOAT32).unexplained == 2  # the third has the lowest score
    assert compare(none, THREE, FLOAT32).unexplained == 2


def test_iou_equals_counted_pixels():
    rng = np.random.default_rng(0)
    corners = np.sort(rng.integers(0, 12, (2, 40, 2, 2)), axis=2).reshape(2, 40, 4)  # x0, y0, x1, y1
    found = box_iou(corners[0].astype(np.float32), corners[1].astype(np.float32))
    for i, a in enumerate(corners[0]):
        for j, b in enumerate(corners[1]):
            masks = np.zeros((2, 12, 12), bool)
            for mask, box in zip(masks, (a, b), strict=True):
                mask[box[1] : box[3], box[0] : box[2]] = True
            union = (masks[0] | masks[1]).sum()
            expected = (masks[0] & masks[1]).sum() / union if union else 0
            assert found[i, j] == pytest.approx(1 if np.array_equal(a, b) else expected)

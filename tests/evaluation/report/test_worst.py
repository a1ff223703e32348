"""Which errors are listed as the worst, in scenes of one row by hand."""

import numpy as np
import pytest

from panoptic_fusion.evaluation.matching import count_image
from panoptic_fusion.evaluation.report.errors import classify_errors
from panoptic_fusion.evaluation.report.worst import worst_of_image

# Ground truth 1 of class 0, predictions {id: class} from id 1. Entries: [class, area, kind, IoU, side, n, box].
BY_HAND = {
    "both halves are listed with the ground truth they split, another false positive on it by itself": (
        "111111", "112233", {1: 0, 2: 0, 3: 1},
        [[0, 6, "split", 0.3333, "gt", 1, [0, 0, 1, 1]], [1, 2, "false", 0.3333, "pred", 3, [0.6667, 0, 1, 1]]]),
    "the ground truth is found, so the smaller part is listed": (
        "1111111", "1111122", {1: 0, 2: 0}, [[0, 2, "split", 0.2857, "pred", 2, [0.7143, 0, 1, 1]]]),
    "a low IoU is listed once": (
        "1111000", "1000000", {1: 0}, [[0, 4, "low iou", 0.25, "gt", 1, [0, 0, 0.5714, 1]]]),
    "nothing in common": (
        "11110000", "00000000", {}, [[0, 4, "missed", None, "gt", 1, [0, 0, 0.5, 1]]]),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_HAND)
def test_scenes_by_hand(name):
    *rows, classes, expected = BY_HAND[name]
    gt_map, pred_map = (np.array([[int(digit) for digit in row]]) for row in rows)
    errors = classify_errors(count_image(pred_map, classes, gt_map, [(1, 0, False)], num_classes=2))
    assert worst_of_image(errors, gt_map, pred_map) == expected

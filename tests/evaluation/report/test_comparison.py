"""Comparison of two predictions: by hand, and the bootstrap against loops over images and classes."""

import math

import numpy as np
import pytest

from panoptic_fusion.evaluation.report.comparison import compare
from panoptic_fusion.evaluation.tuning.statistics import RESAMPLES


def slow_quality(images):
    """PQ of each class (NaN if it does not occur), and their mean, of a list of (tp, fp, fn, IoU sum) per class."""
    classes = []
    for cls in range(len(images[0][0])):
        tp, fp, fn, iou = (sum(image[row][cls] for image in images) for row in range(4))
        classes.append(iou / (tp + fp / 2 + fn / 2) if tp + fp + fn else math.nan)
    known = [pq for pq in classes if not math.isnan(pq)]
    return classes, sum(known) / len(known) if known else math.nan


def percentiles(values):
    """The 2.5th and 97.5th percentile, linear between the sorted values."""
    values = sorted(v for v in values if not math.isnan(v))
    ends = []
    for share in (0.025, 0.975):
        place = share * (len(values) - 1)
        low = int(place)
        ends.append(values[low] + (place - low) * (values[min(low + 1, len(values) - 1)] - values[low]))
    return ends


def test_by_hand():
    """Class 0 has one segment per image: the first finds it in one of two images, the second in both, at IoU 0.8."""
    first = np.array([[[1, 0], [0, 0], [0, 0], [0.8, 0]], [[0, 0], [0, 0], [1, 0], [0, 0]]])
    second = np.array([[[1, 0], [0, 0], [0, 0], [0.8, 0]], [[1, 0], [0, 0], [0, 0], [0.8, 0]]])
    found = compare((first, second), (np.array([80.0, 0.0]), np.array([80.0, 80.0])))
    # 0.8 / (1 + 0.5) = 0.5333: the difference is 26.67. Random sets have it 0, 1 or 2 times: 0, 26.67 or 80.
    assert found["delta"]["pq"] == pytest.approx(100 * (0.8 - 0.8 / 1.5)) and found["delta"]["samples"] == 2
    assert found["delta"]["ci"] == pytest.approx([0, 80])
    [of_class] = found["by_class"]  # class 1 does not occur
    assert of_class["category"] == 0 and of_class["delta"] == pytest.approx(found["delta"]["pq"])
    assert found["images"] == [[1, 80.0]]


def test_random_sums_equal_loops():
    rng = np.random.default_rng(2)
    num, classes = 7, 4
    sums = []
    for _ in range(2):
        tp, fp, fn = (rng.integers(0, 3, (num, classes)) * (rng.random((num, classes)) < 0.4) for _ in range(3))
        sums.append(np.stack([tp, fp, fn, tp * rng.uniform(0.5, 1, tp.shape)], axis=1))
    pq = [np.array([100 * slow_quality([image])[1] for image in each]) for each in sums]
    found = compare(tuple(sums), tuple(pq))
    chosen = np.random.default_rng(0)
    draws = [chosen.integers(num, size=num).tolist() for _ in range(RESAMPLES)]
    values = [[slow_quality([each[i] for i in draw]) for draw in draws] for each in sums]
    whole = [slow_quality(list(each)) for each in sums]
    assert found["delta"]["pq"] == pytest.approx(100 * (whole[1][1] - whole[0][1]))
    spread = [100 * (b[1] - a[1]) for a, b in zip(*values, strict=True)]
    assert found["delta"]["ci"] == pytest.approx(percentiles(spread))
    expected = {}
    for cls in range(classes):
        if not math.isnan(whole[1][0][cls] - whole[0][0][cls]):
            spread = [100 * (b[0][cls] - a[0][cls]) for a, b in zip(*values, strict=True)]
            expected[cls] = [100 * (whole[1][0][cls] - whole[0][0][cls]), *percentiles(spread)]
    assert [c["category"] for c in found["by_class"]] == list(expected)
    for entry in found["by_class"]:
        assert [entry["delta"], *entry["ci"]] == pytest.approx(expected[entry["category"]])
    changes = {i: pq[1][i] - pq[0][i] for i in range(num) if not math.isnan(pq[1][i] - pq[0][i])}
    assert dict(map(tuple, found["images"])) == pytest.approx({i: d for i, d in changes.items() if d})
    sizes = [abs(change) for _, change in found["images"]]
    assert sizes == sorted(sizes, reverse=True)


def test_no_image_and_no_class():
    assert compare((np.zeros((0, 4, 2)),) * 2, (np.zeros(0),) * 2)["delta"]["samples"] == 0
    found = compare((np.zeros((3, 4, 2)),) * 2, (np.full(3, np.nan),) * 2)
    assert math.isnan(found["delta"]["pq"]) and found["by_class"] == [] and found["images"] == []

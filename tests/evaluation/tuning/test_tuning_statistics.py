"""PQ of summed counts, and its bootstrap, against the accumulator, loops and the theory of the mean."""

import numpy as np
import pytest
from panoptic_cases import NUM_STUFF, NUM_THINGS, random_pair

from panoptic_fusion.evaluation import PanopticQuality
from panoptic_fusion.evaluation.tuning.statistics import interval, quality_of_sums, resampled_quality


def image_counts(rng) -> tuple[PanopticQuality, np.ndarray]:
    quality = PanopticQuality(NUM_THINGS, NUM_STUFF)
    pair = random_pair(rng)
    quality.update(pair.pred_map, {i: c for i, c, *_ in pair.pred_segments}, pair.gt_map, pair.gt_segments)
    per_class = quality.compute()["per_class"]
    return quality, np.array([[row[key] for row in per_class] for key in ("tp", "fp", "fn", "iou_sum")])


def test_sums_of_images_have_the_quality_of_the_accumulator():
    rng = np.random.default_rng(0)
    total, sums = PanopticQuality(NUM_THINGS, NUM_STUFF), []
    for _ in range(30):
        quality, counts = image_counts(rng)
        total.merge(quality.state())
        sums.append(counts)
        # the layout that `score_image` relies on
        assert np.array_equal(quality.state()[: 4 * quality.num_classes].reshape(4, -1), counts)
        assert quality_of_sums(counts) == pytest.approx(quality.compute()["all"]["pq"], abs=1e-12, nan_ok=True)
    assert quality_of_sums(np.sum(sums, axis=0)) == pytest.approx(total.compute()["all"]["pq"], abs=1e-12)
    assert quality_of_sums(np.stack(sums)).shape == (30,)


def test_quality_by_hand():
    """Classes: PQ 0.8 / 2, missed, does not occur; and nothing at all."""
    sums = np.array([[1, 0, 0], [2, 0, 0], [0, 3, 0], [0.8, 0, 0]])
    assert quality_of_sums(sums) == pytest.approx((0.4 + 0) / 2)
    assert np.isnan(quality_of_sums(np.zeros((4, 3))))


def test_resamples_are_sets_of_images_drawn_with_replacement():
    rng = np.random.default_rng(3)
    sums = np.stack([image_counts(rng)[1] for _ in range(12)])
    found = resampled_quality(sums, seed=7, resamples=50)
    draws = np.random.default_rng(7)
    for value in found:
        images = draws.integers(12, size=12)
        slow = sum(sums[i] for i in images)
        assert value == pytest.approx(quality_of_sums(slow), abs=1e-12)


def test_equal_images_have_no_spread_and_the_same_seed_pairs_the_resamples():
    rng = np.random.default_rng(4)
    one = image_counts(rng)[1]
    samples = resampled_quality(np.stack([one] * 9), resamples=40)
    assert samples == pytest.approx(np.full(40, quality_of_sums(one)))
    # one class, tp 1 in every image: PQ is the mean IoU, so a constant added to all IoUs is added to all resamples
    iou = rng.uniform(0.5, 0.8, 30)
    a, b = (np.stack([np.array([[1.0], [0.0], [0.0], [x]]) for x in values]) for values in (iou, iou + 0.1))
    assert resampled_quality(b) - resampled_quality(a) == pytest.approx(np.full(2000, 0.1))


def test_spread_is_the_standard_error_of_a_mean():
    iou = np.random.default_rng(5).uniform(0.5, 1, 100)
    samples = resampled_quality(np.stack([np.array([[1.0], [0.0], [0.0], [x]]) for x in iou]))
    assert samples.std() == pytest.approx(iou.std() / 10, rel=0.08)
    low, high = interval(samples)
    assert (low, high) == pytest.approx((iou.mean() - 0.196 * iou.std(), iou.mean() + 0.196 * iou.std()), abs=0.004)


def test_interval_by_hand():
    assert interval(np.arange(1001) / 1000) == pytest.approx((0.025, 0.975))
    assert interval(np.array([np.nan, 2.0, 2.0])) == (2.0, 2.0)
    assert np.isnan(interval(np.array([np.nan]))).all()

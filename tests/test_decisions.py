"""The decisions of the fusion rules: exact fractions, thresholds hit exactly, the same for torch, numpy and numbers."""

import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch

from panoptic_fusion import decisions


def as_bools(result):
    return [bool(x) for x in np.asarray(result).reshape(-1)]


def of_every_kind(function, *integers, **thresholds):
    """The result for torch tensors, numpy arrays of two dtypes, and Python numbers; asserts that all agree."""
    results = [as_bools(function(*(torch.tensor(x) for x in integers), **thresholds))]
    for dtype in (np.int64, np.int32):
        results.append(as_bools(function(*(np.array(x, dtype) for x in integers), **thresholds)))
    results.append([bool(function(*numbers, **thresholds)) for numbers in zip(*integers, strict=True)])
    assert all(result == results[0] for result in results)
    return results[0]


def random_counts(seed=0, num=4000, most=60):
    rng = np.random.default_rng(seed)
    area = rng.integers(0, most, num)
    overlap, agreed = (rng.integers(0, area + 1) for _ in range(2))
    return overlap.tolist(), area.tolist(), agreed.tolist()


# Each threshold is a fraction that some counts hit exactly: 3 of 10, 2 of 5, 7 of 10, 1 of 2.
@pytest.mark.parametrize("tenths", [0, 3, 4, 5, 7, 10])
def test_fits_equals_exact_fractions(tenths):
    overlap, area, _ = random_counts()
    found = of_every_kind(decisions.fits, overlap, area, thresh=tenths / 10)
    assert found == [a > 0 and Fraction(o, a) <= Fraction(tenths, 10) for o, a in zip(overlap, area, strict=True)]
    assert any(a > 0 and Fraction(o, a) == Fraction(tenths, 10) for o, a in zip(overlap, area, strict=True))


def test_agreed_equals_exact_fractions_and_both_thresholds_are_strict():
    overlap, area, agreed = random_counts()
    found = of_every_kind(decisions.is_agreed, overlap, area, agreed, overlap_thresh=0.4, agreement_thresh=0.7)
    expected = [
        a > 0 and Fraction(o, a) < Fraction(4, 10) and Fraction(g, a) > Fraction(7, 10)
        for o, a, g in zip(overlap, area, agreed, strict=True)
    ]
    assert found == expected and 0 < sum(expected) < len(expected)
    strict = decisions.is_agreed(3, 10, 7, overlap_thresh=0.4, agreement_thresh=0.7)
    assert not strict and decisions.is_agreed(3, 10, 8, overlap_thresh=0.4, agreement_thresh=0.7)
    assert not decisions.is_agreed(4, 10, 8, overlap_thresh=0.4, agreement_thresh=0.7)


def test_agreement_as_iou_with_the_things_of_the_image():
    # 8 of the mask's 10 pixels are things, of 12 in the image: IoU 8 / 14.
    for thresh, expected in ((0.5, True), (0.6, False)):
        found = of_every_kind(
            lambda *counts, t=thresh: decisions.is_agreed(
                *counts[:3], overlap_thresh=0.4, agreement_thresh=t, things_area=counts[3]
            ),
            [0], [10], [8], [12],
        )  # fmt: skip
        assert found == [expected]


def test_stuff_area():
    assert of_every_kind(decisions.is_large_stuff, [0, 1, 9, 10, 11], limit=10) == [False, False, False, True, True]
    assert of_every_kind(decisions.is_large_stuff, [0, 1], limit=0) == [False, True]


def test_mostly_stuff_needs_half():
    found = of_every_kind(decisions.is_mostly_stuff, [0, 4, 5, 6, 2], [0, 10, 10, 10, 5])
    assert found == [False, False, True, True, False]


def test_scores_at_the_threshold():
    scores = [0.25, 0.5, 0.75]
    for kind in (torch.tensor, np.array, lambda x: np.array(x, np.float32)):
        assert as_bools(decisions.reaches_score(kind(scores), 0.5)) == [False, True, True]
        assert as_bools(decisions.exceeds_score(kind(scores), 0.5)) == [False, False, True]
    # float32 has 0.69999999 for 0.7: below it in float64, as detectron2 reads it, with torch and numpy alike
    assert not decisions.reaches_score(torch.tensor([0.7]), 0.7)[0]
    assert not decisions.reaches_score(np.array([0.7], np.float32), 0.7)[0]
    assert decisions.reaches_score(0.7, 0.7)


def test_torch_is_not_imported():
    code = "import sys, panoptic_fusion.decisions; sys.exit('torch' in sys.modules or 'detectron2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

"""The compiled count of segment pairs: against a count pixel by pixel, and against numpy's."""

import numpy as np
import pytest

from panoptic_fusion.evaluation import matching
from panoptic_fusion.evaluation.matching import confusion_matrix
from panoptic_fusion.evaluation.matching_kernel import count_pairs

pytest.importorskip("numba")


def slow_table(gt_map, gt_ids, pred_map, pred_ids, kinds):
    rows, columns = ({0: 0, **{int(id): k for k, id in enumerate(ids, 1)}} for ids in (gt_ids, pred_ids))
    table = np.zeros((len(gt_ids) + 2, len(pred_ids) + 2, 4), np.int64)
    for gt, pred, kind in zip(gt_map.ravel().tolist(), pred_map.ravel().tolist(), kinds.ravel().tolist(), strict=True):
        table[rows.get(gt, len(gt_ids) + 1), columns.get(pred, len(pred_ids) + 1), kind] += 1
    return table


def random_case(rng):
    """Maps of runs of random length, whose ids are listed, 0, or unknown."""
    height, width = rng.integers(1, 30, 2)
    ids = [rng.choice(2**24 - 1, int(rng.integers(0, 40)), replace=False).astype(np.int64) + 1 for _ in range(2)]
    maps = []
    for known in (*ids, None):
        values = np.arange(4) if known is None else np.concatenate([known, [0], rng.integers(0, 2**31, 2)])
        runs = values[rng.integers(0, len(values), height * width)]
        flat = np.repeat(runs, rng.integers(1, int(rng.choice([2, 10, 60])), len(runs)))[: height * width]
        maps.append(flat.reshape(height, width).astype(np.uint8 if known is None else np.int32))
    return maps[0], ids[0], maps[1], ids[1], maps[2]


def test_against_a_count_pixel_by_pixel(monkeypatch):
    monkeypatch.setattr(matching, "MIN_PIXELS", 0)
    monkeypatch.setattr(matching, "_counted_by_numpy", None)  # the compiled loop does not give up
    rng = np.random.default_rng(0)
    for _ in range(400):
        *maps, kinds = random_case(rng)
        expected = slow_table(*maps, kinds)
        assert np.array_equal(confusion_matrix(*maps, kinds), expected)
        assert np.array_equal(confusion_matrix(*maps), expected.sum(axis=2))


def test_maps_of_other_types_and_layouts_are_counted_alike(monkeypatch):
    monkeypatch.setattr(matching, "MIN_PIXELS", 0)
    rng = np.random.default_rng(1)
    for dtype in (np.int64, np.uint32, np.int32):
        gt, gt_ids, pred, pred_ids, kinds = random_case(rng)
        expected = slow_table(gt, gt_ids, pred, pred_ids, kinds).sum(axis=2)
        wide = np.repeat(pred, 2, axis=1)[:, ::2]  # not contiguous
        strided = np.stack([gt_ids, gt_ids], axis=1)[:, 0]
        assert np.array_equal(confusion_matrix(gt.astype(dtype), strided, wide, pred_ids), expected)


@pytest.mark.parametrize("compiled", [True, False])
def test_a_negative_id_is_named(monkeypatch, compiled):
    monkeypatch.setattr(matching, "MIN_PIXELS", 0)
    if not compiled:
        monkeypatch.setattr(matching, "compiled", lambda *args: None)
    gt = np.array([[1, 1, -5, 1]], np.int32)
    for maps in ((gt, abs(gt)), (abs(gt), gt)):
        with pytest.raises(ValueError, match="^segment id -5 is negative$"):
            confusion_matrix(maps[0], np.array([1]), maps[1], np.array([1]))


def test_small_maps_and_missing_numba_are_left_to_numpy(monkeypatch):
    case = random_case(np.random.default_rng(2))
    monkeypatch.setattr(matching, "count_pairs", None)
    assert np.array_equal(confusion_matrix(*case), slow_table(*case))
    monkeypatch.setattr(matching, "MIN_PIXELS", 0)
    monkeypatch.setattr(matching, "compiled", lambda *args: None)
    assert np.array_equal(confusion_matrix(*case), slow_table(*case))


def test_the_loop_runs_without_numba():
    gt, gt_ids, pred, pred_ids, kinds = case = random_case(np.random.default_rng(3))
    table = np.zeros((len(gt_ids) + 2, len(pred_ids) + 2, 4), np.int64)
    assert count_pairs(gt.ravel(), pred.ravel(), kinds.ravel(), gt_ids, pred_ids, table)
    assert np.array_equal(table, slow_table(*case))

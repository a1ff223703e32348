"""The search over thresholds: against all settings of small grids, and fold by fold."""

import itertools

import numpy as np
import pytest

from panoptic_fusion.evaluation.tuning.search import (
    MAX_ROUNDS,
    FoldSums,
    descend,
    folds_of,
    line_through,
    search_rules,
)


def run(grid, start, score) -> tuple[tuple, list]:
    """Drives one search; returns its result and all settings it asked for."""
    search, asked = descend(grid, start), []
    line = next(search)
    while True:
        asked += line
        try:
            line = search.send([score(setting) for setting in line])
        except StopIteration as end:
            return end.value, asked


@pytest.mark.parametrize("seed", range(20))
def test_one_axis_is_a_search_over_all_values(seed):
    rng = np.random.default_rng(seed)
    values = list(range(int(rng.integers(1, 9))))
    scores = dict(zip(values, rng.normal(size=len(values)), strict=True))
    best, _ = run([values], (int(rng.choice(values)),), lambda s: scores[s[0]])
    assert best == (max(values, key=scores.get),)


@pytest.mark.parametrize("seed", range(20))
def test_axes_that_do_not_interact_give_the_best_of_all_settings(seed):
    rng = np.random.default_rng(seed)
    grid = [list(range(int(rng.integers(1, 6)))) for _ in range(3)]
    parts = [rng.normal(size=len(values)) for values in grid]

    def score(setting):
        return sum(part[value] for part, value in zip(parts, setting, strict=True))

    best, _ = run(grid, tuple(int(rng.choice(values)) for values in grid), score)
    assert best == max(itertools.product(*grid), key=score)


@pytest.mark.parametrize("seed", range(50))
def test_any_scores_end_where_no_single_change_is_better(seed):
    rng = np.random.default_rng(seed)
    grid = [list(range(3)), list(range(4)), list(range(2))]
    table = rng.normal(size=(3, 4, 2))
    start = (0, 0, 0)
    best, asked = run(grid, start, lambda s: table[s])
    assert table[best] >= table[start] and len(asked) <= MAX_ROUNDS * (4 + 5 + 3)
    for axis, values in enumerate(grid):
        assert all(table[other] <= table[best] for other in line_through(best, axis, values))


def test_equal_scores_change_nothing_and_nan_never_wins():
    assert run([[1, 2, 3], ["a", "b"]], (2, "b"), lambda s: 0.5)[0] == (2, "b")
    assert run([[1, 2, 3]], (2,), lambda s: float("nan"))[0] == (2,)
    assert run([[1, 2, 3]], (2,), lambda s: {1: float("nan"), 2: -5.0, 3: -4.0}[s[0]])[0] == (3,)
    assert run([[1, 2, 3]], (2,), lambda s: {1: -9.0, 2: float("nan"), 3: -8.0}[s[0]])[0] == (3,)


def test_the_start_need_not_be_on_the_grid():
    assert run([[1, 3]], (2,), lambda s: -abs(s[0] - 2))[0] == (2,)
    assert run([[1, 3]], (2,), lambda s: s[0])[0] == (3,)


def test_folds_by_hand():
    assert folds_of(7, 3).tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert folds_of(4, 4).tolist() == [0, 1, 2, 3]
    for images, folds in itertools.product(range(2, 30), range(2, 9)):
        if images < folds:
            with pytest.raises(ValueError, match=f"{images} images cannot fill {folds} folds"):
                folds_of(images, folds)
        else:
            sizes = np.bincount(folds_of(images, folds))
            assert len(sizes) == folds and sizes.max() - sizes.min() <= 1
            assert (np.diff(folds_of(images, folds)) >= 0).all()


def counts(*rows) -> np.ndarray:
    """Counts (K, 4, 1) of one class: each row is tp, fp, fn, IoU sum of a fold."""
    return np.array(rows, float)[:, :, None]


def test_quality_of_folds_by_hand():
    memory = FoldSums(lambda new: {("r", s): counts((1, 0, 0, 0.8), (0, 2, 0, 0), (1, 0, 2, 0.6)) for s in new["r"]})
    memory.require([("r", (1,))])
    assert memory.quality("r", (1,)) == pytest.approx(1.4 / (2 + 1 + 1))
    assert memory.quality("r", (1,), 0) == pytest.approx(0.6 / (1 + 1 + 1))
    assert memory.quality("r", (1,), 1) == pytest.approx(1.4 / (2 + 1))
    assert memory.quality("r", (1,), 2) == pytest.approx(0.8 / (1 + 1))


def test_what_is_known_is_not_computed_again():
    calls = []

    def compute(new):
        calls.append(new)
        return {(rule, setting): counts((1, 0, 0, 0.9)) for rule, settings in new.items() for setting in settings}

    memory = FoldSums(compute)
    memory.require([("a", (1,)), ("b", (1,)), ("a", (1,))])
    memory.require([("a", (1,)), ("a", (2,))])
    memory.require([("a", (2,))])
    assert calls == [{"a": [(1,)], "b": [(1,)]}, {"a": [(2,)]}]


def random_counts(rng, *shape) -> np.ndarray:
    """Counts (*shape, 4, 3) as images have them: IoU sums between tp / 2 and tp."""
    tp, fp, fn = rng.integers(0, 4, (3, *shape, 3))
    return np.stack([tp, fp, fn, tp * rng.uniform(0.5, 1, tp.shape)], axis=-2).astype(float)


def slow_quality(sums: np.ndarray) -> float:
    """PQ of counts (4, C) in plain Python."""
    values = [iou / (tp + fp / 2 + fn / 2) for tp, fp, fn, iou in sums.T.tolist() if tp + fp + fn > 0]
    return sum(values) / len(values)


@pytest.mark.parametrize("seed", range(10))
def test_each_fold_is_left_out_of_its_own_search(seed):
    """Against the best of all settings, chosen from the other folds only, in one call per pass for all searches."""
    rng = np.random.default_rng(seed)
    num_folds, values = 4, [10, 20, 30, 40, 50]
    table = {(rule, (v,)): random_counts(rng, num_folds) for rule in ("a", "b") for v in values}
    calls = []

    def compute(new):
        calls.append(new)
        return {(rule, setting): table[rule, setting] for rule, settings in new.items() for setting in settings}

    best = search_rules({rule: ([values], (30,)) for rule in ("a", "b")}, FoldSums(compute), num_folds)
    assert set(best) == {(rule, fold) for rule in ("a", "b") for fold in (None, *range(num_folds))}
    for (rule, left_out), setting in best.items():
        kept = [fold for fold in range(num_folds) if fold != left_out]
        quality = {v: slow_quality(table[rule, (v,)][kept].sum(0)) for v in values}
        assert setting == (max(values, key=quality.get),)
    assert len(calls) == 1 and sorted(calls[0]) == ["a", "b"]

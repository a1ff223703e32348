"""Coordinate descent over grids of thresholds, with folds of images left out in turn.

Every search proposes settings and receives their scores, so that many searches share one pass over the images. PQ is
computed from counts that add up, so a setting is scored once per image, whichever folds the searches leave out.

Shapes: K is the number of folds, C the number of classes. A setting is a tuple with one value per axis of the grid.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import numpy as np

from .statistics import quality_of_sums

Setting = tuple[Any, ...]
Grid = Sequence[Sequence[Any]]

MAX_ROUNDS = 4  # rounds over all axes per search


def descend(grid: Grid, start: Setting) -> Generator[list[Setting], Sequence[float], Setting]:
    """Searches a grid along one axis after another, until a round over all axes changes nothing.

    A value is only changed for a higher score; NaN is lower than every number. If several values have the same score,
    the first one on the axis is used.

    Args:
        grid: values of each axis.
        start: start setting; its values need not be on the grid.

    Yields:
        Settings to score; `send` expects one score for each, higher is better.

    Returns:
        The best setting found.
    """
    best = start
    for _ in range(MAX_ROUNDS):
        before = best
        for axis, values in enumerate(grid):
            line = [best, *(setting for setting in line_through(best, axis, values) if setting != best)]
            scores = yield line
            best = line[int(np.argmax(np.nan_to_num(np.asarray(scores, float), nan=-np.inf)))]
        if best == before:
            break
    return best


def line_through(setting: Setting, axis: int, values: Sequence[Any]) -> list[Setting]:
    """Returns a setting with its value on one axis replaced by each of `values`."""
    return [(*setting[:axis], value, *setting[axis + 1 :]) for value in values]


def folds_of(num_images: int, num_folds: int) -> np.ndarray:
    """Returns the fold of each image, (num_images,) int64 in [0, num_folds).

    Folds are contiguous parts of the dataset, whose sizes differ by at most one. Neighboring frames of a video
    therefore mostly share a fold, and a setting is rarely scored on the neighbors of the images that it was chosen on.

    Raises:
        ValueError: there are fewer images than folds.
    """
    if num_images < num_folds:
        raise ValueError(f"{num_images} images cannot fill {num_folds} folds")
    return np.arange(num_images) * num_folds // num_images


class FoldSums:
    """Cache of the counts of settings per fold.

    Attributes:
        known: {(rule, setting): (K, 4, C) float64 sums of each fold, see `quality_of_sums`}.
    """

    def __init__(self, compute: Callable[[dict[str, list[Setting]]], Mapping[tuple[str, Setting], np.ndarray]]):
        """Initializes an empty cache.

        Args:
            compute: function that returns the sums of new settings, given as {rule: settings}.
        """
        self._compute = compute
        self.known: dict[tuple[str, Setting], np.ndarray] = {}

    def require(self, wanted: Sequence[tuple[str, Setting]]) -> None:
        """Computes the sums of all new pairs (rule, setting), in one call."""
        new: dict[str, list[Setting]] = {}
        for rule, setting in dict.fromkeys(wanted):
            if (rule, setting) not in self.known:
                new.setdefault(rule, []).append(setting)
        if new:
            self.known.update(self._compute(new))

    def quality(self, rule: str, setting: Setting, left_out: int | None = None) -> float:
        """Returns the PQ of a known setting on all images or without one fold; NaN without segments."""
        sums = self.known[rule, setting]
        kept = sums if left_out is None else np.delete(sums, left_out, axis=0)
        return float(quality_of_sums(kept.sum(axis=0)))


def search_rules(
    grids: Mapping[str, tuple[Grid, Setting]], sums: FoldSums, num_folds: int
) -> dict[tuple[str, int | None], Setting]:
    """Searches for the best setting of each rule, on all images and with each fold left out.

    Args:
        grids: {rule: (grid, start setting)}.
        sums: cache of the counts.
        num_folds: K.

    Returns:
        {(rule, fold that was left out, or None): best setting}.
    """
    searches = {
        (rule, left_out): descend(grid, start)
        for rule, (grid, start) in grids.items()
        for left_out in (None, *range(num_folds))
    }
    best: dict[tuple[str, int | None], Setting] = {}
    answers: dict[tuple[str, int | None], list[float] | None] = dict.fromkeys(searches)
    while answers:
        lines = {}
        for key, scores in answers.items():
            try:
                lines[key] = next(searches[key]) if scores is None else searches[key].send(scores)
            except StopIteration as end:
                best[key] = end.value
        sums.require([(rule, setting) for (rule, _), line in lines.items() for setting in line])
        answers = {
            (rule, left_out): [sums.quality(rule, setting, left_out) for setting in line]
            for (rule, left_out), line in lines.items()
        }
    return best

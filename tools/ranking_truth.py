"""Finds which of two overlapping instances is in front, for tools/ranking_accuracy.py, and two trivial answers."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

LEAST_OVERLAP = 16  # pixels: one cell of the module


@dataclass(frozen=True)
class Pair:
    """Two overlapping instances of different classes: their rows, classes and areas in pixels, the front one first."""

    rows: tuple[int, int]
    classes: tuple[int, int]
    areas: tuple[int, int]


def overlapping_pairs(masks: Tensor, classes: Sequence[int], labels: Tensor) -> list[Pair]:
    """Returns the pairs of different classes that share at least `LEAST_OVERLAP` pixels, and whose order is known.

    The front one is the one whose class more of the shared pixels show. Pairs of equal counts are left out, such as
    pairs that a third object hides where they overlap. Instances of one class are left out, because they share a
    channel of the module, which cannot order them.

    Args:
        masks: (R, H, W) bool.
        classes: R thing classes in [0, T).
        labels: (H, W) int64, the visible thing class, any other value where there is none.
    """
    pairs, areas = [], masks.sum((1, 2)).tolist()
    for i in range(len(masks)):
        for j in range(i + 1, len(masks)):
            shown = labels[masks[i] & masks[j]]
            counts = [int((shown == classes[k]).sum()) for k in (i, j)]
            if len(shown) < LEAST_OVERLAP or classes[i] == classes[j] or counts[0] == counts[1]:
                continue
            rows = (i, j) if counts[0] > counts[1] else (j, i)
            pairs.append(Pair(rows, *(tuple(values[k] for k in rows) for values in (classes, areas))))
    return pairs


def share_right(scores: Sequence[tuple[float, float]]) -> float:
    """Returns the fraction of pairs whose front one has the higher score; a tie counts half.

    Args:
        scores: scores of the front and the rear one, for each pair, at least one.
    """
    return sum((front > rear) + 0.5 * (front == rear) for front, rear in scores) / len(scores)


def smaller_in_front(pairs: Sequence[Pair]) -> float:
    """Returns the accuracy of "the smaller mask is in front"."""
    return share_right([(-pair.areas[0], -pair.areas[1]) for pair in pairs])


def class_majority(train: Sequence[Pair], pairs: Sequence[Pair]) -> float:
    """Returns the accuracy of "in front is the class that is more often in front in the training pairs of both"."""
    wins = Counter(pair.classes for pair in train)
    return share_right([(wins[pair.classes], wins[pair.classes[::-1]]) for pair in pairs])

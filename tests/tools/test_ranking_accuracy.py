"""tools/ranking_accuracy.py: the pairs and both trivial rules by hand and against loops, and a short run."""

import random

import pytest
import torch
from tiny_training import import_script

from panoptic_fusion.data.toy.scenes import generate_toy_scenes

truth = import_script("tools/ranking_truth")


def test_pairs_by_hand():
    """A tie on a person, a car behind both, a second car on the first, and a person that touches the car a little."""
    masks = torch.zeros(5, 20, 20, dtype=torch.bool)
    masks[0, 0:20, 0:8] = True  # person
    masks[1, 4:12, 2:6] = True  # tie, 32 pixels
    masks[2, 10:20, 4:16] = True  # car
    masks[3, 10:20, 6:16] = True  # car
    masks[4, 8:12, 9:14] = True  # person: 10 pixels of each car
    labels = torch.full((20, 20), -1)
    for row, cls in ((3, 2), (2, 2), (0, 0), (1, 1)):
        labels[masks[row]] = cls
    pairs = truth.overlapping_pairs(masks, [0, 1, 2, 2, 0], labels)
    assert {pair.rows: pair.areas for pair in pairs} == {(1, 0): (32, 160), (0, 2): (160, 120), (0, 3): (160, 100)}
    assert {pair.classes for pair in pairs} == {(1, 0), (0, 2)}
    assert truth.smaller_in_front(pairs) == pytest.approx(1 / 3)
    assert truth.class_majority(pairs[:1], pairs) == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert truth.share_right([(0.9, 0.1), (0.1, 0.9), (0.5, 0.5), (1.0, 0.0)]) == 0.625


def slow_pairs(masks, classes, labels):
    found, (height, width) = set(), labels.shape
    for a in range(len(masks)):
        for b in range(len(masks)):
            both = [(y, x) for y in range(height) for x in range(width) if masks[a][y][x] and masks[b][y][x]]
            first, second = (sum(int(labels[y, x]) == classes[k] for y, x in both) for k in (a, b))
            if classes[a] != classes[b] and len(both) >= 16 and first > second:
                found.add((a, b))
    return found


def test_pairs_equal_loops():
    rng, number = random.Random(0), 0
    for seed in range(100):
        torch.manual_seed(seed)
        masks = torch.rand(rng.randint(0, 5), 8, 9) < rng.random()
        classes = [rng.randint(0, 2) for _ in masks]
        labels = torch.randint(-1, 4, (8, 9))
        pairs = truth.overlapping_pairs(masks, classes, labels)
        assert {pair.rows for pair in pairs} == slow_pairs(masks, classes, labels) and len(set(pairs)) == len(pairs)
        for pair in pairs:
            assert pair.classes == tuple(classes[k] for k in pair.rows)
            assert pair.areas == tuple(int(masks[k].sum()) for k in pair.rows)
        number += len(pairs)
    assert number > 50


def test_a_short_run_prints_the_table(run_script, tmp_path):
    generate_toy_scenes(tmp_path / "toy", num_train=12, num_val=12, size=(96, 128))
    code, out, err = run_script(
        "tools/ranking_accuracy", tmp_path / "toy", "--seeds", "1", "--iterations", "2", "--clip", "1"
    )
    assert code == 0, err
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in out.splitlines() if line.startswith("|")]
    names = [row[1] for row in table[2:]]
    assert names[:2] == ["class majority", "smaller in front"] and len(names) == 8
    assert {row[0] for row in table[2:]} == {"toy"}
    assert all(0 <= float(cell.split()[0]) <= 1 for row in table[2:] for cell in row[2:])


def test_folders_without_scenes_are_named(run_script, tmp_path):
    code, _, err = run_script("tools/ranking_accuracy", tmp_path / "nothing")
    assert code == 2 and "nothing" in err and "Traceback" not in err

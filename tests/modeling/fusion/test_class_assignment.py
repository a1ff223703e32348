"""The class of each instance of UPSNet's panoptic head: hand cases, and the rule as it is written against ours."""

import random
from fractions import Fraction

import pytest
import torch

from panoptic_fusion.modeling.fusion.upsnet.class_assignment import assign_segments
from panoptic_fusion.segments import majority_stuff_class


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        # stuff 0, stuff 1, things
        ([0, 0, 10], -1),  # all of them say thing
        ([10, 0, 0], 0),
        ([0, 10, 0], 1),
        ([4, 0, 6], -1),  # less than half
        ([5, 0, 5], 0),  # exactly half
        ([0, 6, 5], 1),
        ([5, 5, 0], 0),  # two modes: the lower one
        ([4, 5, 1], 1),  # the mode has exactly half
        ([4, 4, 2], -1),  # stuff together has more than half, none of it alone
        ([1, 0, 0], 0),
        ([0, 0, 0], -1),  # no pixel
    ],
)
def test_hand_cases(counts, expected):
    assert majority_stuff_class(torch.tensor([counts])).tolist() == [expected]


def test_no_stuff_class_and_no_instance():
    assert majority_stuff_class(torch.tensor([[3], [0]])).tolist() == [-1, -1]
    assert majority_stuff_class(torch.zeros(0, 4, dtype=torch.int64)).tolist() == []


def rule(labels, own, num_stuff):
    """The rule of the paper on the semantic labels of one instance's pixels; -1 where it stays."""
    frequency = {c: Fraction(labels.count(c), len(labels)) for c in set(labels)}
    mode = min(c for c in frequency if frequency[c] == max(frequency.values()))
    if mode == own:
        return -1
    return mode if mode < num_stuff and frequency[mode] >= Fraction(1, 2) else -1


def test_equals_the_rule_with_all_thing_classes():
    rng, taken = random.Random(0), 0
    for _ in range(2000):
        num_stuff, num_things = rng.randint(1, 4), rng.randint(1, 3)
        few = rng.sample(range(num_stuff + num_things), rng.randint(1, min(3, num_stuff + num_things)))
        labels = [rng.choice(few) for _ in range(rng.randint(1, 8))]
        own = rng.randrange(num_stuff, num_stuff + num_things)
        counts = [labels.count(s) for s in range(num_stuff)]
        counts.append(len(labels) - sum(counts))
        result = majority_stuff_class(torch.tensor([counts])).item()
        assert result == rule(labels, own, num_stuff)
        taken += result >= 0
    assert 500 < taken < 1500


def test_segments():
    # Stuff 0, 1, 2; instances 3, 4, 5, 6; 7 is unknown.
    labels = torch.tensor([[3, 3, 3, 4, 4, 0, 0, 1, 7, 6, 6]], dtype=torch.int16)
    stuff = torch.tensor([[3, 3, 0, 1, 1, 0, 0, 1, 2, 2, 3]], dtype=torch.int16)

    def segments_of(limit, **kwargs):
        return assign_segments(
            labels, stuff, instance_ids=[8, 5, 2, 1], scores=[0.9, 0.8, 0.7, 0.6], classes=[0, 1, 0, 1],
            num_stuff=3, stuff_area_limit=limit, **kwargs,
        )  # fmt: skip

    panoptic, segments = segments_of(2)
    # Instance 3 stays (2 of 3 are things), 4 becomes stuff 1, 5 has no pixel, 6 becomes stuff 2 (half).
    assert segments == [
        {"id": 1, "isthing": True, "category_id": 0, "score": 0.9, "instance_id": 8, "area": 3},
        {"id": 2, "isthing": False, "category_id": 0, "area": 2},
        {"id": 3, "isthing": False, "category_id": 1, "area": 3},
        {"id": 4, "isthing": False, "category_id": 2, "area": 2},
    ]
    assert panoptic.tolist() == [[1, 1, 1, 3, 3, 2, 2, 3, 0, 4, 4]] and panoptic.dtype == torch.int32
    panoptic, segments = segments_of(3)
    assert [s["category_id"] for s in segments] == [0, 1]
    assert panoptic.tolist() == [[1, 1, 1, 2, 2, 0, 0, 2, 0, 0, 0]]
    # With trusted classes 4 and 6 stay too: stuff 1 has one pixel left, and stuff 2 none.
    panoptic, segments = segments_of(0, keep_instance_classes=True)
    assert [(s["isthing"], s["category_id"], s["area"]) for s in segments] == (
        [(True, 0, 3), (True, 1, 2), (True, 1, 2), (False, 0, 2), (False, 1, 1)]
    )
    assert panoptic.tolist() == [[1, 1, 1, 2, 2, 4, 4, 5, 0, 3, 3]]

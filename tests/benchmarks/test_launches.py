"""Launches and blocking reads of the fusions on a GPU: the counter by hand, ceilings for all rules."""

import pytest
import torch
from launch_counter import Counts, LaunchCounter
from launches import PARTS, RULES, count
from simulated_device import DEVICE, to_device

from panoptic_fusion.modeling.fusion import sem_seg_logits

# launches, reads, all reads, for 100 and for 300 instances. UPSNet is not a greedy rule.
LIMITS = {name: (210, 5, 10) for name in RULES} | {"upsnet": (450, 6, 11)}
PART_LIMITS = {"spatial_ranking": 70, "upsnet": 330}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("num", [100, 300])
def test_launches_and_reads_of_a_rule(name, num, monkeypatch):
    size = (256, 512)
    # As many strips as 19 channels of 1024 x 2048 have, for which the limits are set.
    monkeypatch.setitem(sem_seg_logits.MAX_STRIP_ELEMENTS, "cuda", 2**24 // 16)
    counts, part = count(name, size, num, flat=True)
    launches, reads, all_reads = LIMITS[name]
    if name in PARTS:
        assert 0 < part.launches <= PART_LIMITS[name]
    assert 50 < counts.launches <= launches
    assert 1 < counts.reads <= reads and counts.reads < counts.all_reads <= all_reads


def test_the_loop_has_many_times_the_launches():
    loop, _ = count("heuristic", (128, 256), 100, flat=False)
    flat, _ = count("heuristic", (128, 256), 100, flat=True)
    assert loop.launches > 8 * flat.launches


def counts_of(function, *tensors):
    with LaunchCounter() as counter:
        function(*map(to_device, tensors))
    return counter.counts


X = torch.tensor([3.0, -1.0, 2.0])


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: x + 1, Counts(1, 0, 0)),
        (lambda x: x[1:].view(2, 1).t()[None], Counts(0, 0, 0)),
        (lambda x: torch.empty_like(x), Counts(0, 0, 0)),
        (lambda x: torch.zeros(3, device=x.device), Counts(1, 0, 0)),
        (lambda x: x.double().sum().add_(1), Counts(3, 0, 0)),
        (lambda x: x[1].item(), Counts(0, 1, 0)),
        (lambda x: x.tolist(), Counts(0, 1, 0)),
        (lambda x: x.cpu().numpy(), Counts(0, 1, 0)),
        (lambda x: bool((x > 0).any()), Counts(2, 1, 0)),
        (lambda x: torch.equal(x, x), Counts(1, 1, 0)),
        (lambda x: x.nonzero(), Counts(1, 1, 0)),
        (lambda x: x[x > 0], Counts(2, 1, 0)),
        (lambda x: x[torch.tensor([0, 2])], Counts(1, 0, 1)),
        (lambda x: torch.bincount(x.abs().long()), Counts(3, 0, 1)),
        (lambda x: torch.tensor([1, 2], device=x.device), Counts(0, 0, 1)),
        (lambda x: x.new_tensor([1.0]), Counts(0, 0, 1)),
        (lambda x: torch.ones(2).to(x.device), Counts(0, 0, 1)),
        (lambda x: torch.ones(2) + 1, Counts(0, 0, 0)),
    ],
)
def test_counts_by_hand(function, expected):
    assert counts_of(function, X) == expected


def test_values_are_those_of_the_cpu():
    with LaunchCounter() as counter:
        x = to_device(X.clone())
        y = x[1:]
        y += 10
        z = torch.cumsum(x, 0, out=torch.empty(3, device=x.device))
        with counter.paused():
            z[0] = 7
        assert x.device.type == DEVICE == z.device.type
        assert (x.tolist(), z.tolist()) == ([3, 9, 12], [7, 12, 24])
    assert counter.counts == Counts(2, 2, 0)

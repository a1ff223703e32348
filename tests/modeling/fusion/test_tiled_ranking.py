"""Ranking probabilities in tiles against the module itself, and the classes that each tile is convolved with."""

import random
from unittest import mock

import pytest
import torch
from torch.nn import functional as F

from panoptic_fusion.modeling.fusion.oanet import tiled_ranking
from panoptic_fusion.modeling.fusion.oanet.spatial_ranking_module import KERNELS, SpatialRankingModule
from panoptic_fusion.modeling.fusion.oanet.tiled_ranking import prefers_tiles, tiled_probabilities
from panoptic_fusion.modeling.fusion.paint import FLAT_DEVICES


def random_module(num_classes, kernel):
    """All biases are random, since those of new modules are 0."""
    module = SpatialRankingModule(num_classes, kernel).double()
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return module


@pytest.mark.parametrize("kernel", KERNELS)
def test_equals_the_module(kernel, monkeypatch):
    """At every cell of every mask, also at borders and in maps smaller than the kernel."""
    torch.manual_seed(0)
    rng, num_cells = random.Random(0), 0
    for _ in range(60):
        monkeypatch.setattr(tiled_ranking, "TILE", rng.choice([1, 3, 8, 48]))
        num_classes, (height, width) = rng.choice([1, 2, 9]), (rng.randint(1, 20), rng.randint(1, 20))
        module = random_module(num_classes, kernel)
        classes = rng.sample(range(num_classes), rng.randint(0, num_classes))
        channels = torch.zeros(num_classes, height, width, dtype=torch.float64)
        for c in classes:
            y, x = rng.randrange(height), rng.randrange(width)
            channels[c, y : y + rng.randint(0, 9), x : x + rng.randint(0, 9)] = 1
        with torch.no_grad():
            expected = module(channels[None])[0].softmax(0)[classes]
            found = tiled_probabilities(module, channels[classes], classes)
        inside = channels[classes] > 0
        assert found.shape == expected.shape and found.dtype == torch.float64
        torch.testing.assert_close(found[inside], expected[inside], atol=1e-12, rtol=0)
        num_cells += int(inside.sum())
    assert num_cells > 900


def test_a_tile_is_convolved_with_the_classes_in_reach_only(monkeypatch):
    monkeypatch.setattr(tiled_ranking, "TILE", 10)
    module = random_module(30, "1x7+7x1")
    channels = torch.zeros(3, 20, 40, dtype=torch.float64)
    channels[0, 2, 2] = 1  # only in the first tile
    channels[1, 2, 24] = channels[2, 2, 27] = 1  # in the third tile; the last one is 3 cells from the fourth tile
    with mock.patch.object(F, "conv2d", wraps=F.conv2d) as conv, torch.no_grad():
        tiled_probabilities(module, channels, [4, 11, 29])
    shapes = [tuple(call.args[1].shape) for call in conv.call_args_list]
    assert shapes == [(30, 2, 7, 7), (30, 3, 7, 7), (30, 2, 7, 7)]  # with the channel of ones


def test_which_modules_run_in_tiles():
    many, few = SpatialRankingModule(80, "1x1"), SpatialRankingModule(8, "1x1")
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert prefers_tiles(many, cpu)
    assert not prefers_tiles(few, cpu) and not prefers_tiles(many, cuda) and not prefers_tiles(many.forward, cpu)
    assert "cpu" not in FLAT_DEVICES


@pytest.mark.parametrize("score_over", ["mask", "contested"])
def test_the_fusion_gives_the_scores_of_the_module(score_over, monkeypatch):
    from test_spatial_ranking_fusion import NUM_STUFF, build, flat_sem_seg, instances_of, rectangles

    rng = random.Random(5)
    for seed in range(20):
        torch.manual_seed(seed)
        fusion = build(20, kernel="1x7+7x1", stride=2, score_over=score_over)
        instances = instances_of(rectangles(rng, (24, 32), 6), [0.9] * 6, torch.randint(0, 20, (6,)))
        scene = fusion.scene(flat_sem_seg((24, 32), 20 + NUM_STUFF), instances)
        scores = []
        for limit in (0, 1000):
            monkeypatch.setattr(tiled_ranking, "MIN_CLASSES", limit)
            with torch.no_grad():
                scores.append(fusion.ranking_scores(scene))
        torch.testing.assert_close(*scores, atol=1e-6, rtol=0)

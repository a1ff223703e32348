"""The spatial ranking module: channels, contested labels, loss and ranking scores against loops over pixels."""

import math
import random

import pytest
import torch

from panoptic_fusion.errors import ConfigError
from panoptic_fusion.layers.chunks import MAX_CHUNK_ELEMENTS
from panoptic_fusion.modeling.fusion.mask_crops import BitmaskCrops
from panoptic_fusion.modeling.fusion.oanet.cell_masks import CellMasks
from panoptic_fusion.modeling.fusion.oanet.spatial_ranking_module import (
    KERNELS,
    SpatialRankingModule,
    cell_pixels,
    class_channels,
    ranking_loss,
    ranking_targets,
)


def random_masks(rng, size, num):
    """Rectangles, some of them whole or empty."""
    masks = torch.zeros(num, *size, dtype=torch.bool)
    for mask in masks:
        y, x = rng.randint(0, size[0] // 2), rng.randint(0, size[1] // 2)
        mask[y : y + rng.randint(0, size[0]), x : x + rng.randint(0, size[1])] = True
    return masks


def cell_masks(masks, classes):
    """Whole masks (R, h, w) bool as masks at cells of one pixel each."""
    _, height, width = masks.shape
    crops = BitmaskCrops(masks, torch.tensor([[0.0, 0, width, height]]).expand(len(masks), -1))
    return CellMasks(crops, range(len(masks)), classes.tolist(), torch.arange(height), torch.arange(width))


def ranking_scores(probabilities, masks, classes):
    return cell_masks(masks, classes).ranking_scores(probabilities)


def slow_channels(masks, classes, num_classes):
    """{(y, x): classes that claim the cell}, by loops."""
    _, height, width = masks.shape
    claims = {(y, x): set() for y in range(height) for x in range(width)}
    for mask, cls in zip(masks.tolist(), classes.tolist(), strict=True):
        for y in range(height):
            for x in range(width):
                if mask[y][x]:
                    claims[y, x].add(cls)
    return claims


def slow_softmax(logits):
    values = [math.exp(v - max(logits)) for v in logits]
    return [v / sum(values) for v in values]


def test_equals_loops_over_pixels():
    """Channels, contested labels, loss and ranking scores of 300 random cases, with a 1x1 convolution by hand."""
    rng = random.Random(0)
    contested = losses = 0
    for case in range(300):
        torch.manual_seed(case)
        num_classes, num = rng.choice([1, 2, 3, 6]), rng.choice([0, 1, 2, 4, 9, 15])
        size = (rng.randint(1, 7), rng.randint(1, 9))
        masks, classes = random_masks(rng, size, num), torch.randint(0, num_classes, (num,))
        seen = torch.randint(-1, num_classes + 1, size)
        module = SpatialRankingModule(num_classes, "1x1").double()
        torch.nn.init.normal_(module.branches[0][0].bias)
        weight, bias = module.branches[0][0].weight[:, :, 0, 0].tolist(), module.branches[0][0].bias.tolist()

        claims = slow_channels(masks, classes, num_classes)
        channels = class_channels(masks, classes, num_classes)
        assert torch.equal(cell_masks(masks, classes).class_channels(num_classes), channels)
        labels = ranking_targets(channels, seen)
        logits = module(channels[None].double())
        total, probabilities = [], {}
        for (y, x), who in claims.items():
            assert {c for c in range(num_classes) if channels[c, y, x] == 1} == who
            assert set(channels[:, y, x].tolist()) <= {0.0, 1.0}
            slow = slow_softmax([bias[a] + sum(weight[a][b] for b in who) for a in range(num_classes)])
            probabilities[y, x] = slow
            expected = int(seen[y, x]) if len(who) > 1 and int(seen[y, x]) in who else 255
            assert int(labels[y, x]) == expected
            if expected != 255:
                total.append(-math.log(slow[expected]))
        loss = ranking_loss(logits, labels[None]).item()
        assert loss == pytest.approx(sum(total) / len(total) if total else 0.0, abs=1e-9)
        contested += len(total)
        losses += bool(total)

        scores = ranking_scores(logits[0].softmax(0), masks, classes)
        for mask, cls, score in zip(masks, classes.tolist(), scores.tolist(), strict=True):
            cells = mask.nonzero().tolist()
            mean = sum(probabilities[y, x][cls] for y, x in cells) / len(cells) if cells else 1.0
            assert score == pytest.approx(mean, abs=1e-9)
    assert contested > 300 and 50 < losses < 250


def test_hand_computed():
    # One row: person only, both, both, tie only; the second of the two is seen as the person, the first as the tie.
    masks = torch.tensor([[[1, 1, 1, 0]], [[0, 1, 1, 1]]]) > 0
    classes = torch.tensor([0, 1])
    channels = class_channels(masks, classes, 2)
    assert channels.tolist() == [[[1, 1, 1, 0]], [[0, 1, 1, 1]]]
    labels = ranking_targets(channels, torch.tensor([[0, 1, 0, 1]]))
    assert labels.tolist() == [[255, 1, 0, 255]]
    logits = torch.tensor([[[0.0, 0, 0, 0]], [[0.0, math.log(3), math.log(3), 0]]])
    assert float(ranking_loss(logits[None], labels[None])) == pytest.approx((-math.log(0.75) - math.log(0.25)) / 2)
    scores = ranking_scores(logits.softmax(0), masks, classes)
    assert scores.tolist() == pytest.approx([(0.5 + 0.25 + 0.25) / 3, (0.75 + 0.75 + 0.5) / 3])


def test_one_class_alone_is_not_contested():
    masks = torch.ones(3, 2, 2, dtype=torch.bool)
    same = class_channels(masks, torch.tensor([1, 1, 1]), 2)
    assert same.sum(0).max() == 1 and (ranking_targets(same, torch.ones(2, 2).long()) == 255).all()
    both = class_channels(masks, torch.tensor([1, 1, 0]), 2)
    assert (ranking_targets(both, torch.ones(2, 2).long()) == 1).all()


@pytest.mark.parametrize("label", [-1, 2, 3, 252, 255])
def test_what_is_none_of_the_claimants_teaches_nothing(label):
    """Stuff, void, and class 2, which claims no cell."""
    channels = class_channels(torch.ones(2, 1, 3, dtype=torch.bool), torch.tensor([0, 1]), 3)
    assert ranking_targets(channels, torch.full((1, 3), label)).tolist() == [[255, 255, 255]]


def test_results_do_not_depend_on_the_chunks(monkeypatch):
    rng = random.Random(1)
    masks, classes = random_masks(rng, (9, 11), 40), torch.randint(0, 5, (40,))
    probabilities = torch.randn(5, 9, 11).softmax(0)
    channels, scores = class_channels(masks, classes, 5), ranking_scores(probabilities, masks, classes)
    for limit in (1, 99, 500):
        monkeypatch.setitem(MAX_CHUNK_ELEMENTS, "cpu", limit)
        assert torch.equal(class_channels(masks, classes, 5), channels)
        assert torch.equal(cell_masks(masks, classes).class_channels(5), channels)
        assert torch.equal(ranking_scores(probabilities, masks, classes), scores)


@pytest.mark.parametrize("kernel", KERNELS)
def test_gradcheck(kernel):
    torch.manual_seed(0)
    module = SpatialRankingModule(3, kernel).double()
    masks = random_masks(random.Random(2), (8, 9), 6)
    channels = class_channels(masks, torch.tensor([0, 1, 2, 0, 1, 2]), 3)[None].double()
    labels = ranking_targets(channels, torch.randint(0, 3, (1, 8, 9)))
    assert (labels != 255).sum() > 5

    def loss(*parameters):
        names = [name for name, _ in module.named_parameters()]
        logits = torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), (channels,))
        return ranking_loss(logits, labels)

    assert torch.autograd.gradcheck(loss, tuple(p.detach().requires_grad_() for p in module.parameters()))


@pytest.mark.parametrize("kernel", KERNELS)
def test_no_contested_cell_gives_zero_and_zero_gradients(kernel):
    module = SpatialRankingModule(4, kernel)
    loss = ranking_loss(module(torch.ones(2, 4, 5, 6)), torch.full((2, 5, 6), 255))
    loss.backward()
    assert float(loss) == 0
    assert all(p.grad is not None and not p.grad.any() for p in module.parameters())


@pytest.mark.parametrize(("kernel", "reach"), [("1x1", 0), ("3x3", 1), ("1x7+7x1", 3)])
def test_kernels(kernel, reach):
    """Linear, of a square field of view, with the channels of the classes throughout."""
    torch.manual_seed(0)
    module = SpatialRankingModule(3, kernel).double()
    channels = torch.zeros(1, 3, 17, 17, dtype=torch.float64)
    empty = module(channels)
    channels[0, 1, 8, 8] = 1
    response = (module(channels) - empty)[0]
    seen = response.abs().amax(0) > 0
    expected = torch.zeros(17, 17, dtype=torch.bool)
    expected[8 - reach : 9 + reach, 8 - reach : 9 + reach] = True
    assert torch.equal(seen, expected)
    shifted = torch.zeros_like(channels)
    shifted[0, 1, 5, 10] = 2
    torch.testing.assert_close(
        (module(channels + shifted) - empty)[0], response + 2 * response.roll((-3, 2), (1, 2)), atol=1e-12, rtol=0
    )
    convolutions = [m for m in module.modules() if isinstance(m, torch.nn.Conv2d)]
    assert all((m.in_channels, m.out_channels) == (3, 3) for m in convolutions)
    assert len(convolutions) == (4 if kernel == "1x7+7x1" else 1)


def test_large_kernel_by_hand():
    """The block of reference [34]: both orders of the two convolutions, each looped over by hand, added up."""
    torch.manual_seed(1)
    module = SpatialRankingModule(2, "1x7+7x1").double()
    x = torch.randint(0, 2, (1, 2, 9, 10)).double()

    def convolve(inputs, conv):
        height, width = conv.kernel_size
        result = torch.zeros_like(inputs)
        for a in range(2):
            for y in range(9):
                for col in range(10):
                    value = conv.bias[a]
                    for b in range(2):
                        for j in range(height):
                            for i in range(width):
                                v, u = y + j - height // 2, col + i - width // 2
                                if 0 <= v < 9 and 0 <= u < 10:
                                    value = value + conv.weight[a, b, j, i] * inputs[b, v, u]
                    result[a, y, col] = value
        return result

    with torch.no_grad():
        (first, second), (third, fourth) = module.branches
        assert [c.kernel_size for c in (first, second, third, fourth)] == [(1, 7), (7, 1), (7, 1), (1, 7)]
        expected = convolve(convolve(x[0], first), second) + convolve(convolve(x[0], third), fourth)
        torch.testing.assert_close(module(x)[0], expected)


def test_unknown_kernel():
    with pytest.raises(ConfigError, match="SRM.KERNEL is '5x5': use one of 1x1, 3x3"):
        SpatialRankingModule(3, "5x5")


def test_which_pixel_stands_for_a_cell():
    assert cell_pixels(8, 4, 8).tolist() == [2, 6]
    assert cell_pixels(9, 4, 9).tolist() == [2, 6, 8]  # the last cell is cut off after one pixel
    assert cell_pixels(5, 1, 5).tolist() == [0, 1, 2, 3, 4]
    assert cell_pixels(1, 8, 1).tolist() == [0]
    assert cell_pixels(8, 4, 16).tolist() == [5, 13]  # the middles, 2.5 and 6.5, at twice the size
    assert cell_pixels(8, 4, 4).tolist() == [1, 3]
    assert cell_pixels(800, 4, 3)[-1] == 2


def test_half_precision():
    torch.manual_seed(0)
    module = SpatialRankingModule(80, "1x7+7x1")
    with torch.no_grad():
        for p in module.parameters():
            p *= 30  # logits of some hundreds
    channels = (torch.rand(1, 80, 12, 16) < 0.1).float()
    labels = ranking_targets(channels, channels.argmax(1))
    exact = ranking_loss(module(channels), labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = module(channels)
        loss = ranking_loss(logits, labels)
        scores = ranking_scores(logits[0].float().softmax(0), channels[0] > 0, torch.arange(80))
    assert logits.dtype == torch.bfloat16 and loss.dtype == torch.float32 and torch.isfinite(scores).all()
    assert float(loss) == pytest.approx(float(exact), rel=0.05)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters())

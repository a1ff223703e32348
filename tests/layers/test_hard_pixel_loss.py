"""The loss over the hardest pixels against sorting in plain Python."""

import math
import random

import pytest
import torch
from torch.nn import functional as F

from panoptic_fusion.layers import hard_pixel_cross_entropy


def oracle(logits, target, fraction, weights, sizes):
    """Pixel by pixel with Python floats."""
    images = []
    for n in range(len(logits)):
        height, width = sizes[n]
        losses = []
        for i in range(height):
            for j in range(width):
                label = int(target[n, i, j])
                values = [float(v) for v in logits[n, :, i, j]]
                if label == 255:
                    losses.append(0.0)
                else:
                    log_sum = math.log(sum(math.exp(v) for v in values))
                    losses.append(weights[label] * (log_sum - values[label]))
        losses.sort(reverse=True)
        k = math.ceil(fraction * len(losses))
        images.append(sum(losses[:k]) / k)
    return sum(images) / len(images)


def test_equals_oracle():
    rng = random.Random(0)
    torch.manual_seed(0)
    for _ in range(200):
        n, c, h, w = rng.randint(1, 3), rng.randint(1, 4), rng.randint(1, 6), rng.randint(1, 6)
        logits = torch.randn(n, c, h, w, dtype=torch.float64)
        target = torch.randint(0, c, (n, h, w))
        target[torch.rand(n, h, w) < rng.choice([0, 0.3, 0.9, 1])] = 255
        weights = [rng.uniform(0.1, 3) for _ in range(c)] if rng.random() < 0.5 else None
        sizes = [(rng.randint(1, h), rng.randint(1, w)) for _ in range(n)] if rng.random() < 0.5 else None
        fraction = rng.choice([0.25, 0.1, 0.5, 1.0])
        expected = oracle(logits, target, fraction, weights or [1] * c, sizes or [(h, w)] * n)
        loss = hard_pixel_cross_entropy(
            logits,
            target,
            fraction,
            class_weights=None if weights is None else torch.tensor(weights),
            image_sizes=sizes,
        )
        assert float(loss) == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_hand_computed():
    """Five pixels: ceil(0.25 * 5) = 2 of them, the two that are wrong by log-odds 2 and 1."""
    logits = torch.zeros(1, 2, 1, 5)
    logits[0, 1, 0] = torch.tensor([2.0, 1.0, 0.0, -1.0, 5.0])  # the target is class 0, the last pixel is ignored
    target = torch.tensor([[[0, 0, 0, 0, 255]]])
    expected = (math.log(1 + math.exp(2)) + math.log(1 + math.exp(1))) / 2
    assert float(hard_pixel_cross_entropy(logits, target)) == pytest.approx(expected)
    logits.requires_grad_()
    hard_pixel_cross_entropy(logits, target).backward()
    assert (logits.grad.abs().sum((0, 1, 2)) > 0).tolist() == [True, True, False, False, False]


def test_ignored_pixels_count_as_zero_and_padding_does_not():
    """One pixel of eight has ground truth: two count, so the mean is half of its loss; of a 1x2 image only one."""
    logits = torch.randn(1, 3, 2, 4)
    target = torch.full((1, 2, 4), 255)
    target[0, 0, 0] = 1
    pixel = F.cross_entropy(logits[0, :, 0, 0], torch.tensor(1))
    torch.testing.assert_close(hard_pixel_cross_entropy(logits, target), pixel / 2)
    torch.testing.assert_close(hard_pixel_cross_entropy(logits, target, image_sizes=[(1, 2)]), pixel)


def test_edges():
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = hard_pixel_cross_entropy(logits, torch.full((2, 4, 4), 255))
    loss.backward()
    assert loss.item() == 0 and logits.grad.abs().sum() == 0
    target = torch.randint(0, 3, (2, 4, 4))
    torch.testing.assert_close(hard_pixel_cross_entropy(logits, target, 1.0), F.cross_entropy(logits, target))
    empty = torch.zeros(0, 3, 4, 4, requires_grad=True)
    hard_pixel_cross_entropy(empty, torch.zeros(0, 4, 4, dtype=torch.long)).backward()
    assert hard_pixel_cross_entropy(logits.bfloat16(), target).dtype == torch.float32
    for fraction in (0.0, 1.5):
        with pytest.raises(ValueError, match="fraction"):
            hard_pixel_cross_entropy(logits, target, fraction)

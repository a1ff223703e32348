"""The window average against F.avg_pool2d with a replicated border, and against slow loops."""

import random

import pytest
import torch
from torch.nn import functional as F

from panoptic_fusion.layers import box_average


def padded_avg_pool(x, k):
    kh, kw = min(k, x.shape[-2]), min(k, x.shape[-1])
    y = F.avg_pool2d(x, (kh, kw), stride=1)
    left, top = (kw - 1) // 2, (kh - 1) // 2
    return F.pad(y, (left, left + (kw % 2 == 0), top, top + (kh % 2 == 0)), mode="replicate")


def loops(x, k):
    """Window by window on a list of lists: the window of an output pixel is the nearest one inside the map."""
    height, width = len(x), len(x[0])
    kh, kw = min(k, height), min(k, width)
    out = [[0.0] * width for _ in range(height)]
    for i in range(height):
        for j in range(width):
            top = min(max(i - (kh - 1) // 2, 0), height - kh)
            left = min(max(j - (kw - 1) // 2, 0), width - kw)
            values = [x[a][b] for a in range(top, top + kh) for b in range(left, left + kw)]
            out[i][j] = sum(values) / len(values)
    return out


def test_equals_loops():
    rng = random.Random(0)
    for _ in range(200):
        x = torch.randn(rng.randint(1, 9), rng.randint(1, 9), dtype=torch.float64)
        k = rng.randint(1, 10)
        expected = torch.tensor(loops(x.tolist(), k), dtype=torch.float64)
        torch.testing.assert_close(box_average(x[None, None], k)[0, 0], expected)


@pytest.mark.parametrize("size", [(64, 64), (63, 130), (65, 100), (20, 300), (1, 1), (128, 1)])
def test_equals_avg_pool(size):
    torch.manual_seed(0)
    x = 5 * torch.rand(2, 3, *size)
    y = box_average(x, 64)
    torch.testing.assert_close(y, padded_avg_pool(x.double(), 64).float(), atol=1e-5, rtol=1e-6)


def test_equals_avg_pool_at_full_size():
    torch.manual_seed(0)
    x = torch.randn(1, 2, 256, 512).abs() * 10  # one sign: running sums grow most
    error = (box_average(x, 64) - padded_avg_pool(x.double(), 64)).abs().max()
    assert error < 1e-4
    error = (box_average(x, 64) - padded_avg_pool(x, 64)).abs().max()  # avg_pool2d in float32 has an error of its own
    assert error < 1e-4


def test_gradient():
    torch.manual_seed(0)
    for k, size in ((3, (5, 6)), (4, (5, 6)), (4, (3, 7)), (9, (2, 3)), (1, (3, 3))):
        x = torch.randn(2, 2, *size, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda t, k=k: box_average(t, k), (x,))
        grad = torch.randn_like(x)
        expected = torch.autograd.grad(padded_avg_pool(x, k), x, grad)[0]
        torch.testing.assert_close(torch.autograd.grad(box_average(x, k), x, grad)[0], expected)


def test_dtypes_layouts_and_errors():
    x = torch.rand(2, 4, 70, 80)
    y = box_average(x.bfloat16(), 64)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), padded_avg_pool(x, 64), atol=0.01, rtol=0.01)
    torch.testing.assert_close(box_average(x.to(memory_format=torch.channels_last), 64), box_average(x, 64))
    assert box_average(torch.zeros(0, 4, 7, 8)).shape == (0, 4, 7, 8)
    with pytest.raises(ValueError, match="kernel_size"):
        box_average(x, 0)
    with pytest.raises(ValueError, match="shape"):
        box_average(torch.zeros(1, 4, 0, 8))


def test_backward_keeps_nothing():
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda t: t):
        box_average(torch.rand(1, 1, 70, 70, requires_grad=True))
    assert not kept

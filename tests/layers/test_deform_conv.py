"""Deformable convolution against sums written out pixel by pixel; gradients; half precision in and out of autocast."""

import math
import random
import subprocess
import sys
import warnings

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from panoptic_fusion.layers import DeformConv2d, deform_conv, deform_conv2d, offset_conv

HALVES = [torch.float16, torch.bfloat16]


def sample(plane: list[list[float]], y: float, x: float) -> float:
    """Bilinear interpolation; zero where there is no pixel."""
    value = 0.0
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < len(plane) and 0 <= column < len(plane[0]):
                value += (1 - abs(y - row)) * (1 - abs(x - column)) * plane[row][column]
    return value


def slow_deform_conv(x, offset, weight, bias, stride, padding, dilation):
    """Lists of lists in, lists of lists out: the definition."""
    kernel = len(weight[0][0])
    result = []
    for image, image_offset in zip(x, offset, strict=True):
        height, width = len(image_offset[0]), len(image_offset[0][0])
        maps = []
        for out_weight, out_bias in zip(weight, bias, strict=True):
            plane = [[out_bias] * width for _ in range(height)]
            for row in range(height):
                for column in range(width):
                    for c, channel in enumerate(image):
                        for tap in range(kernel * kernel):
                            i, j = divmod(tap, kernel)
                            y = row * stride - padding + i * dilation + image_offset[2 * tap][row][column]
                            z = column * stride - padding + j * dilation + image_offset[2 * tap + 1][row][column]
                            plane[row][column] += out_weight[c][i][j] * sample(channel, y, z)
            maps.append(plane)
        result.append(maps)
    return result


def random_case(rng: random.Random, dtype=torch.float64):
    """Small maps; offsets that reach over every border, some of whole pixels."""
    kernel, stride, padding, dilation = (
        rng.choice([1, 3]),
        rng.choice([1, 1, 2]),
        rng.choice([0, 1, 2]),
        rng.choice([1, 2]),
    )
    shortest = max(1, dilation * (kernel - 1) + 1 - 2 * padding)
    height, width = rng.randint(shortest, shortest + 3), rng.randint(shortest, shortest + 3)
    num, channels, out = rng.randint(1, 2), rng.randint(1, 2), rng.randint(1, 2)
    settings = {"stride": stride, "padding": padding, "dilation": dilation}
    x = torch.randn(num, channels, height, width, dtype=dtype)
    weight, bias = torch.randn(out, channels, kernel, kernel, dtype=dtype), torch.randn(out, dtype=dtype)
    size = F.conv2d(x, weight, **settings).shape[-2:]
    offset = rng.choice([0.0, 0.5, 3.0]) * torch.randn(num, 2 * kernel**2, *size, dtype=dtype)
    if rng.random() < 0.3:
        offset = offset.round()
    return x, offset, weight, bias, settings


def test_equals_the_definition():
    rng = random.Random(0)
    torch.manual_seed(0)
    for _ in range(200):
        x, offset, weight, bias, settings = random_case(rng)
        expected = slow_deform_conv(x.tolist(), offset.tolist(), weight.tolist(), bias.tolist(), *settings.values())
        result = deform_conv2d(x, offset, weight, bias, **settings)
        torch.testing.assert_close(result, torch.tensor(expected, dtype=x.dtype).view_as(result))
        theirs = torchvision.ops.deform_conv2d(x, offset, weight, bias, **settings)  # what an export contains
        torch.testing.assert_close(theirs, result)


def test_gradients_are_those_of_torchvision():
    """Also at whole positions, where they have two sides: the way by sampling must take the same one."""
    rng = random.Random(4)
    torch.manual_seed(4)
    for _ in range(100):
        x, offset, weight, bias, settings = random_case(rng, torch.float32)
        offset = offset.round() if rng.random() < 0.5 else offset
        inputs = [t.requires_grad_() for t in (x, offset, weight, bias)]
        results = [f(*inputs, **settings) for f in (deform_conv2d, torchvision.ops.deform_conv2d)]
        towards = torch.randn_like(results[0])
        ours, theirs = (torch.autograd.grad(result, inputs, towards) for result in results)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_an_export_contains_the_operator():
    """Both ways of export name one operator, which ONNX and others have, instead of its samples."""

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(2, 3, 3, 3))

        def forward(self, x, offset):
            return deform_conv2d(x, offset, self.weight, padding=1)

    layer, inputs = Layer(), (torch.randn(1, 3, 6, 7), torch.randn(1, 18, 6, 7))
    with warnings.catch_warnings(action="ignore"):  # sizes become constants
        traced = torch.jit.trace(layer, inputs)
    assert "torchvision::deform_conv2d" in str(traced.inlined_graph)
    exported = torch.export.export(layer, inputs)
    assert "torchvision.deform_conv2d" in str(exported.graph)
    for program in (traced, exported.module()):
        torch.testing.assert_close(program(*inputs), layer(*inputs))


def test_few_images_at_a_time(monkeypatch):
    torch.manual_seed(5)
    x, offset, weight = torch.randn(5, 3, 6, 7), torch.randn(5, 18, 6, 7), torch.randn(2, 3, 3, 3)
    expected = deform_conv2d(x, offset, weight, padding=1)
    seen = []
    original = F.grid_sample

    def counting(x, *args, **kwargs):
        seen.append(len(x))
        return original(x, *args, **kwargs)

    monkeypatch.setattr(F, "grid_sample", counting)
    monkeypatch.setattr(deform_conv, "COLUMN_BYTES", 2 * 3 * 9 * 42 * 4)  # the samples of two images
    torch.testing.assert_close(deform_conv2d(x, offset, weight, padding=1), expected)
    assert seen == [2, 2, 1]
    monkeypatch.setattr(deform_conv, "COLUMN_BYTES", 1)
    torch.testing.assert_close(deform_conv2d(x.requires_grad_(), offset, weight, padding=1), expected)


def test_offsets_are_y_then_x_of_each_tap():
    """One pixel is 1; the tap of row 2, column 0 alone has a weight, and reads it from one down and two right."""
    x = torch.zeros(1, 1, 5, 6)
    x[0, 0, 3, 4] = 1
    weight = torch.zeros(1, 1, 3, 3)
    weight[0, 0, 2, 0] = 7
    offset = torch.zeros(1, 18, 5, 6)
    offset[0, 2 * 6], offset[0, 2 * 6 + 1] = 1, 2  # tap 6, of 9
    # pixel (r, c) reads row r + 1 + 1, column c - 1 + 2: it must be (1, 3)
    assert deform_conv2d(x, offset, weight, padding=1).nonzero().tolist() == [[0, 0, 1, 3]]


def test_gradients():
    rng = random.Random(1)
    torch.manual_seed(1)
    for _ in range(10):
        x, offset, weight, bias, settings = random_case(rng)
        offset = offset.floor() + 0.1 + 0.8 * torch.rand_like(offset)  # bilinear interpolation has kinks at pixels
        inputs = [t.requires_grad_() for t in (x, offset, weight, bias)]
        assert torch.autograd.gradcheck(lambda *t, s=settings: deform_conv2d(*t, **s), inputs)


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision(dtype):
    """What autocast gives (maps in half precision, weights in float32), and a module that is in half precision."""
    torch.manual_seed(2)
    rounded = [torch.randn(2, 4, 6, 7), torch.randn(2, 18, 6, 7), torch.randn(5, 4, 3, 3), torch.randn(5)]
    rounded = [t.to(dtype) for t in rounded]
    expected_inputs = [t.float().requires_grad_() for t in rounded]
    expected = deform_conv2d(*expected_inputs, padding=1)
    expected.square().sum().backward()
    for maps, parameters in ((dtype, torch.float32), (dtype, dtype), (torch.float32, torch.float32)):
        for autocast in (True, False):
            x, offset = (t.to(maps, copy=True).requires_grad_() for t in rounded[:2])
            weight, bias = (t.to(parameters, copy=True).requires_grad_() for t in rounded[2:])
            with torch.autocast("cpu", dtype, enabled=autocast):
                result = deform_conv2d(x, offset, weight, bias, padding=1)
            assert result.dtype == maps
            torch.testing.assert_close(result, expected.to(maps))
            result.float().square().sum().backward()
            for t, e in zip((x, offset, weight, bias), expected_inputs, strict=True):
                assert t.grad.dtype == t.dtype
                torch.testing.assert_close(t.grad.float(), e.grad, rtol=0.02, atol=0.02 * e.grad.abs().max().item())


def test_module_starts_as_a_convolution_with_norm():
    torch.manual_seed(3)
    for stride, dilation in ((1, 1), (2, 1), (1, 2)):
        conv = DeformConv2d(4, 6, 3, stride, dilation, dilation, bias=False, norm=nn.GroupNorm(2, 6))
        x = torch.randn(2, 4, 9, 10)
        offset = offset_conv(4, stride=stride, dilation=dilation)(x)
        expected = F.conv2d(x, conv.weight, stride=stride, padding=dilation, dilation=dilation)
        torch.testing.assert_close(conv(x, offset), conv.norm(expected))
        assert set(conv.state_dict()) == {"weight", "norm.weight", "norm.bias"}
    assert set(DeformConv2d(4, 6, 3).state_dict()) == {"weight", "bias"}


NOT_FINITE = [math.nan, math.inf, -math.inf, 1e30, -3e38]


def test_an_offset_that_is_not_finite_samples_zero():
    """As if the tap's position were far past the border; all other taps, and all gradients, stay what they are."""
    rng = random.Random(6)
    torch.manual_seed(6)
    for _ in range(60):
        x, offset, weight, bias, settings = random_case(rng, torch.float32)
        broken = torch.rand_like(offset) < 0.2
        values = torch.tensor(NOT_FINITE)[torch.randint(len(NOT_FINITE), offset.shape)]
        pairs = []
        for bad in (values, torch.full_like(offset, 1000.0)):
            inputs = [t.detach().clone().requires_grad_() for t in (x, torch.where(broken, bad, offset), weight, bias)]
            with torch.no_grad():
                plain = deform_conv2d(*inputs, **settings)  # torchvision's kernel
            result = deform_conv2d(*inputs, **settings)  # by sampling
            torch.testing.assert_close(plain, result)
            pairs.append([result, *torch.autograd.grad(result.square().sum(), inputs)])
        for ours, expected in zip(*pairs, strict=True):
            torch.testing.assert_close(ours, expected)


def test_a_network_with_a_broken_pixel_or_broken_weights_does_not_end_the_process(child_env):
    """A crash would end this process, too, so the network runs in a child: it must reach its last line."""
    code = """
import torch
from torch import nn
from panoptic_fusion.layers import DeformConv2d, offset_conv
torch.manual_seed(0)
offsets, conv = offset_conv(8), DeformConv2d(8, 8, 3, padding=1)
nn.init.normal_(offsets.weight)
x = torch.randn(1, 8, 64, 64)
x[0, 3, 20, 20] = float("nan")
for training in (False, True):
    with torch.set_grad_enabled(training):
        conv(x, offsets(x))
nn.init.constant_(offsets.weight, float("nan"))
with torch.no_grad():
    conv(x.nan_to_num(), offsets(x.nan_to_num()))
print("alive")
"""
    done = subprocess.run([sys.executable, "-c", code], env=child_env, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr[-2000:]

"""Interpolation in numpy: the same float32 numbers as torch's CPU kernels, to the last bit."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from panoptic_fusion.modeling.fusion.resize import resize_labels as torch_resize_labels
from panoptic_fusion.modeling.fusion.sem_seg_logits import SemSegLogits as TorchSemSegLogits
from panoptic_fusion.runtime.interpolation import AxisTaps, lerp, multiply_add
from panoptic_fusion.runtime.labels import resize_labels
from panoptic_fusion.runtime.sem_seg_logits import MAX_STRIP_ELEMENTS, SemSegLogits

pytestmark = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() == "DEFAULT", reason="torch rounds differently without AVX2"
)


def test_a_multiply_add_is_rounded_once():
    # (1 + 2^-12)^2 = 1 + 2^-11 + 2^-24: float32 rounds the product to 1 + 2^-11, so two roundings return 0.
    x = np.float32([1 + 2**-12])
    assert multiply_add(x, x, -np.float32([1 + 2**-11])) == [2.0**-24]


@pytest.mark.parametrize("size", [(7, 13, 17), (3, 40, 129), (50, 1, 33)])
def test_lerp_equals_torch(size):
    rng = np.random.default_rng(0)
    first, second = rng.normal(0, 5, (2, *size)).astype(np.float32)
    pair = torch.from_numpy(first), torch.from_numpy(second)
    for shape in (size[-1:], (size[1], 1), size):
        weight = rng.choice([rng.random(shape), rng.integers(0, 9, shape) / 8]).astype(np.float32)
        assert np.array_equal(lerp(first, second, weight), torch.lerp(*pair, torch.from_numpy(weight)).numpy())


@pytest.mark.parametrize("stride", [2, 3, 4, 8])
def test_upsampling_equals_torch(stride):
    x = np.random.default_rng(stride).normal(0, 5, (13, 11, 37)).astype(np.float32)
    expected = F.interpolate(torch.from_numpy(x)[None], scale_factor=(1.0, float(stride)), mode="bilinear")[0]
    assert np.array_equal(AxisTaps.of_resize(37, 37 * stride, 1 / stride).resize(x), expected.numpy())


def test_resizing_equals_torch():
    rng = np.random.default_rng(1)
    for old, new in rng.integers(1, 200, (60, 2)).tolist():
        x = rng.normal(0, 5, (3, 2, old)).astype(np.float32)
        expected = F.interpolate(torch.from_numpy(x)[None], size=(2, new), mode="bilinear")[0]
        assert np.array_equal(AxisTaps.of_resize(old, new).resize(x), expected.numpy()), (old, new)


def test_labels_are_resized_as_by_torch():
    rng = np.random.default_rng(2)
    for _ in range(200):
        height, width, *size = (int(n) for n in rng.integers(1, 300, 4))
        labels = rng.integers(0, 1000, (height, width))
        scale = [None, 0.5, float(height / size[0])][rng.integers(0, 3)]
        expected = torch_resize_labels(torch.from_numpy(labels), tuple(size), scale)
        assert np.array_equal(resize_labels(labels, tuple(size), scale), expected.numpy())


def sizes(rng):
    """Padded, image and output sizes; the output is the image's size in some cases, along one axis in others."""
    image = tuple(int(n) for n in rng.integers(3, 70, 2))
    padded = tuple(-(-n // 16) * 16 for n in image)
    other = tuple(int(n) for n in rng.integers(3, 130, 2))
    return padded, image, [image, other, (image[0], other[1]), (other[0], image[1])][rng.integers(0, 4)]


@pytest.mark.parametrize("elements", [MAX_STRIP_ELEMENTS, 500])
def test_logits_and_their_argmax_equal_torch(elements, monkeypatch):
    monkeypatch.setattr("panoptic_fusion.runtime.sem_seg_logits.MAX_STRIP_ELEMENTS", elements)
    rng = np.random.default_rng(3)
    for _ in range(100):
        padded, image, output = sizes(rng)
        logits = rng.normal(0, 3, (rng.integers(1, 9), padded[0] // 4, padded[1] // 4)).astype(np.float32)
        ours = SemSegLogits(logits, padded, image, output)
        theirs = TorchSemSegLogits(torch.from_numpy(logits), padded, image, output)
        expected = np.concatenate([x.numpy() for _, _, x in theirs.strips()], axis=1)
        assert np.array_equal(ours.full(), expected)
        assert np.allclose(ours.full(), theirs.full().numpy(), atol=1e-5)
        assert np.array_equal(ours.argmax(), theirs.argmax().numpy())


def test_the_lowest_channel_wins_a_tie():
    logits = np.zeros((3, 2, 2), np.float32)
    logits[0] = -1
    assert (SemSegLogits(logits, (8, 8), (8, 8), (8, 8)).argmax() == 1).all()
    assert (SemSegLogits(logits, (8, 8), (8, 8), (11, 5)).argmax() == 1).all()


def test_pixels_that_depend_on_a_cell_change_with_it():
    """A cell of 1 among zeros leaves a pixel at 0 if and only if the pixel does not depend on the cell."""
    rng = np.random.default_rng(4)
    for _ in range(60):
        padded, image, output = sizes(rng)
        cells = rng.random((padded[0] // 4, padded[1] // 4)) < 0.05
        sem_seg = SemSegLogits(np.zeros((1, *cells.shape), np.float32), padded, image, output)
        expected = TorchSemSegLogits(torch.from_numpy(cells[None]).float(), padded, image, output).full()[0] > 0
        assert np.array_equal(sem_seg.depends_on(cells), expected.numpy())

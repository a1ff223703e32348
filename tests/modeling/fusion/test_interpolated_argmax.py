"""Argmax of interpolated logits: both implementations against each other, and against loops in exact fractions."""

import importlib.util
import random
from fractions import Fraction

import pytest
import torch
from test_sem_seg_logits import check_labels, random_case, two_steps

from panoptic_fusion.modeling.fusion import SemSegLogits, interpolated_argmax
from panoptic_fusion.modeling.fusion.argmax_kernel import argmax_rows
from panoptic_fusion.modeling.fusion.interpolated_argmax import bilinear_taps

NEEDS_NUMBA = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="extra `fast`")


@pytest.fixture(params=["numba", "plain"])
def implementation(request, monkeypatch):
    if request.param == "numba":
        pytest.importorskip("numba")
    else:
        use_plain_torch(monkeypatch)
    return request.param


def use_plain_torch(monkeypatch):
    monkeypatch.setattr(interpolated_argmax, "compiled", lambda *args: None)
    monkeypatch.setattr(interpolated_argmax, "MOSTLY_UNCLEAR", 1)


def adversarial(case, rng):
    """Equal, almost equal and dyadic logits, where the order of two channels hangs on the last bit."""
    logits = case.logits
    kind = rng.choice(["levels", "copies", "ulps", "huge"])
    if kind == "levels":
        logits = (logits / 4).round()
    elif kind == "copies":
        logits = logits[torch.randint(min(2, len(logits)), (len(logits),))]
    elif kind == "ulps":
        logits = logits[:1] * (1 + torch.randint(-3, 4, logits.shape) * 2.0**-23)
    else:
        logits = logits * 2.0 ** rng.choice([-140, -30, 50])
    return SemSegLogits(logits, case.padded_size, case.image_size, case.output_size)


@NEEDS_NUMBA
def test_both_implementations_return_the_same_labels(monkeypatch):
    rng = random.Random(0)
    cases = [random_case(seed, channels=rng.choice([1, 2, 5, 19])) for seed in range(1500)]
    cases = [case if i % 3 == 0 else adversarial(case, rng) for i, case in enumerate(cases)]
    found = [case.argmax() for case in cases]
    use_plain_torch(monkeypatch)
    for case, labels in zip(cases, found, strict=True):
        assert torch.equal(case.argmax(), labels), case


@NEEDS_NUMBA
@pytest.mark.parametrize("image, output", [((160, 1216),) * 2, ((150, 1213),) * 2, ((159, 1200), (97, 2100))])
def test_both_implementations_on_wide_images_of_regions(monkeypatch, image, output):
    """More than one block of columns, and pixels that are copied as well as pixels that are computed."""
    torch.manual_seed(0)
    coarse = torch.randn(1, 300, 4, 5) * 5
    logits = torch.nn.functional.interpolate(coarse, size=(40, 304), mode="bicubic")[0].round(decimals=1)
    x = SemSegLogits(logits, (160, 1216), image, output)
    found = x.argmax()
    check_labels(found, two_steps(logits, 4, image, output))
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert torch.equal(x.argmax(), found)
    use_plain_torch(monkeypatch)
    assert torch.equal(x.argmax(), found)


def test_interpolated_logits_in_fractions(implementation):
    """The argmax of exact sums at stride 4: small integers times weights of 1/8, so float32 is exact, ties included."""
    weights = [(-1, 3, 5), (-1, 1, 7), (0, 7, 1), (0, 5, 3)]  # offset of the upper logit, eighths of both

    def along(values, i):
        offset, first, second = weights[i % 4]
        low = min(max(i // 4 + offset, 0), len(values) - 1)
        high = min(i // 4 + offset + 1, len(values) - 1)
        return Fraction(first, 8) * values[low] + Fraction(second, 8) * values[high]

    for seed in range(25):
        rng = random.Random(seed)
        h, w, channels = rng.randint(1, 5), rng.randint(1, 5), rng.randint(1, 4)
        logits = [[[rng.randint(-2, 2) for _ in range(w)] for _ in range(h)] for _ in range(channels)]
        size = rng.randint(1, 4 * h), rng.randint(1, 4 * w)
        labels = SemSegLogits(torch.tensor(logits).float(), (4 * h, 4 * w), size, size).argmax()
        for y in range(size[0]):
            for x in range(size[1]):
                values = [along([along(row, x) for row in channel], y) for channel in logits]
                assert labels[y, x] == values.index(max(values))


def test_against_two_interpolations(implementation):
    for seed in range(150):
        x = random_case(seed)
        check_labels(x.argmax(), two_steps(x.logits, x.stride, x.image_size, x.output_size))


def test_noise_in_plain_torch_is_interpolated_everywhere(monkeypatch):
    use_plain_torch(monkeypatch)
    monkeypatch.setattr(interpolated_argmax, "MOSTLY_UNCLEAR", 0.3)
    x = SemSegLogits(torch.randn(9, 20, 20), (80, 80), (80, 80), (80, 80))
    sizes = ((80, 80, 20, 4),) * 2
    assert interpolated_argmax.interpolated_argmax(x.logits, *(bilinear_taps(*size) for size in sizes)) is None
    check_labels(x.argmax(), x.full())


def test_taps_reproduce_two_linear_interpolations():
    for seed in range(300):
        rng = random.Random(seed)
        length, stride = rng.randint(1, 9), rng.choice([1, 2, 3, 4, 8])
        image = rng.randint(1, length * stride)
        output = rng.choice([image, rng.randint(1, 90)])
        x = torch.randn(1, 1, length, dtype=torch.float32)
        steps = torch.nn.functional.interpolate(x, scale_factor=float(stride), mode="linear")[..., :image]
        if image != output:
            steps = torch.nn.functional.interpolate(steps, size=output, mode="linear")
        taps = bilinear_taps(output, image, length, stride)
        inputs = torch.stack([x[0, 0, (taps.first + k).clamp(max=length - 1)] for k in range(3)])
        assert torch.allclose((inputs * taps.weight).sum(0), steps[0, 0], atol=1e-5)
        assert taps.weight.min() >= 0 and (taps.first[1:] >= taps.first[:-1]).all()


def test_the_kernel_is_also_python():
    """Its source runs without numba, so that a failure can be stepped through."""
    x = SemSegLogits(torch.randn(3, 4, 5), (16, 20), (15, 18), (15, 18))
    rows, columns = (bilinear_taps(*size, 4) for size in ((15, 15, 4), (18, 18, 5)))
    labels = torch.zeros(15, 18, dtype=torch.int64)
    arrays = [t.numpy() for t in (x.logits, rows.first, rows.weight, columns.first, columns.weight)]
    argmax_rows(*arrays, columns.phases, labels.numpy())
    check_labels(labels, x.full())

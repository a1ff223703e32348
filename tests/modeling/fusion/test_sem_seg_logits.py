"""SemSegLogits: strips and argmax against the two interpolations on the full tensor, and against loops over pixels."""

import math
import random

import pytest
import torch
from detectron2.modeling.postprocessing import sem_seg_postprocess
from torch.nn import functional as F

from panoptic_fusion.modeling.fusion import SemSegLogits, sem_seg_logits


def two_steps(logits, stride, image_size, output_size):
    """What detectron2 does: its heads enlarge by the stride, sem_seg_postprocess crops and resizes."""
    x = F.interpolate(logits[None], scale_factor=stride, mode="bilinear", align_corners=False)[0]
    if image_size == output_size:
        return x[:, : image_size[0], : image_size[1]]
    return sem_seg_postprocess(x, image_size, *output_size)


def random_case(seed, channels=5):
    rng = random.Random(seed)
    torch.manual_seed(seed)
    stride = rng.choice([1, 2, 4, 8])
    h, w = rng.randint(1, 9), rng.randint(1, 9)
    padded = (h * stride, w * stride)
    image = tuple(rng.randint(1, side) for side in padded)
    output = rng.choice([image, padded, (image[0], rng.randint(1, 60)), tuple(rng.randint(1, 60) for _ in image)])
    if rng.random() < 0.3:
        image = output = padded
    return SemSegLogits(torch.randn(channels, h, w) * 4, padded, image, output)


@pytest.mark.parametrize("limit", [1, 500, 2**20])
def test_equals_two_interpolations(monkeypatch, limit):
    monkeypatch.setitem(sem_seg_logits.MAX_STRIP_ELEMENTS, "cpu", limit)
    for seed in range(150):
        x = random_case(seed)
        expected = two_steps(x.logits, x.stride, x.image_size, x.output_size)
        assert torch.allclose(x.full(), expected, atol=1e-5)
        next_row = 0
        for y0, y1, strip in x.strips():
            assert y0 == next_row and y1 > y0
            assert torch.allclose(strip, expected[:, y0:y1], atol=1e-5)
            next_row = y1
        assert next_row == x.output_size[0]
        check_labels(x.argmax(), expected)


def check_labels(labels, logits):
    """`labels` is the argmax of `logits`; where the two highest are closer than rounding either will do."""
    assert labels.dtype == torch.int64 and labels.shape == logits.shape[1:]
    chosen = logits.gather(0, labels[None])[0]
    assert (chosen >= logits.amax(0) - 1e-5).all()
    clear = logits.topk(min(2, len(logits)), dim=0).values
    clear = clear[0] - clear[-1] > 1e-5
    assert torch.equal(labels[clear], logits.argmax(0)[clear])


def slow_bilinear(image, out_length):
    """Bilinear resizing of a list of lists of numbers along the first axis, align_corners=False."""
    length = len(image)
    rows = []
    for i in range(out_length):
        source = max((i + 0.5) * length / out_length - 0.5, 0)
        first = min(int(math.floor(source)), length - 1)
        second = min(first + 1, length - 1)
        weight = source - first
        rows.append([a * (1 - weight) + b * weight for a, b in zip(image[first], image[second], strict=True)])
    return rows


def test_equals_loops_over_pixels():
    def transpose(image):
        return [list(row) for row in zip(*image, strict=True)]

    for seed in range(40):
        x = random_case(1000 + seed, channels=3)
        expected = []
        for channel in x.logits.double().tolist():
            image = slow_bilinear(channel, x.padded_size[0])
            image = transpose(slow_bilinear(transpose(image), x.padded_size[1]))
            image = [row[: x.image_size[1]] for row in image[: x.image_size[0]]]
            image = slow_bilinear(image, x.output_size[0])
            expected.append(transpose(slow_bilinear(transpose(image), x.output_size[1])))
        expected = torch.tensor(expected)
        assert torch.allclose(torch.cat([s for _, _, s in x.strips()], dim=1), expected.float(), atol=2e-5)
        check_labels(x.argmax(), expected.float())


def test_smooth_logits_of_a_larger_image():
    """Regions of one label with borders between them, as trained networks give: every size relation, many strips."""
    torch.manual_seed(0)
    logits = F.interpolate(torch.randn(1, 7, 4, 5) * 5, size=(40, 56), mode="bicubic")[0]
    same, cropped = ((160, 224), (160, 224)), ((150, 201), (150, 201))
    for image, output in [same, cropped, ((151, 220), (97, 333)), ((160, 224), (400, 90))]:
        x = SemSegLogits(logits, (160, 224), image, output)
        check_labels(x.argmax(), two_steps(logits, 4, image, output))


def test_ties_go_to_the_lowest_channel():
    logits = torch.zeros(4, 6, 6)
    logits[0] = -1
    x = SemSegLogits(logits, (24, 24), (24, 24), (24, 24))
    assert (x.argmax() == 1).all()
    assert (SemSegLogits(logits, (24, 24), (20, 23), (31, 17)).argmax() == 1).all()


def test_select_channels():
    x = random_case(3)
    assert torch.equal(x.select(slice(2, 4)).full(), x.full()[2:4])
    assert torch.equal(x.select([4, 0]).full(), x.full()[[4, 0]])
    assert (x.select([1]).argmax() == 0).all()


def test_half_precision_gives_float32():
    x = random_case(4)
    half = SemSegLogits(x.logits.half(), x.padded_size, x.image_size, x.output_size)
    assert half.full().dtype == torch.float32
    assert all(strip.dtype == torch.float32 for _, _, strip in half.strips())
    as_float = SemSegLogits(x.logits.half().float(), x.padded_size, x.image_size, x.output_size)
    assert torch.equal(half.argmax(), as_float.argmax())


def test_strips_are_bounded(monkeypatch):
    monkeypatch.setitem(sem_seg_logits.MAX_STRIP_ELEMENTS, "cpu", 4000)
    x = SemSegLogits(torch.randn(3, 16, 16), (64, 64), (64, 64), (64, 100))
    assert max(strip.numel() for _, _, strip in x.strips()) <= 4000


@pytest.mark.parametrize(
    "shape, padded, image, output",
    [
        ((3, 8, 8), (32, 33), (30, 30), (30, 30)),  # not one stride
        ((3, 8, 8), (32, 64), (30, 30), (30, 30)),
        ((8, 8), (32, 32), (30, 30), (30, 30)),
        ((3, 8, 8), (32, 32), (33, 30), (30, 30)),  # image larger than the padded input
        ((3, 8, 8), (32, 32), (30, 30), (0, 30)),
    ],
)
def test_sizes_that_do_not_fit(shape, padded, image, output):
    with pytest.raises(ValueError, match="size"):
        SemSegLogits(torch.zeros(shape), padded, image, output)

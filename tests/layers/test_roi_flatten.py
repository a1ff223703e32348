"""roi_flatten against a loop over pixels, its gradient, and the memory that it keeps for backward."""

import math
import random

import pytest
import torch
from detectron2.layers import paste_masks_in_image
from torch.nn import functional as F

from panoptic_fusion.layers.chunks import MAX_CHUNK_ELEMENTS
from panoptic_fusion.layers.roi_flatten import roi_flatten


def slow_value(mask, box, x, y):
    """The mask of one instance at the centre of pixel (x, y), or None outside of its box."""
    x0, y0, x1, y1 = box
    cx, cy = x + 0.5, y + 0.5
    if not (x0 <= cx < x1 and y0 <= cy < y1):
        return None
    side = len(mask)
    value = 0.0
    u = (cx - x0) / (x1 - x0) * side - 0.5
    v = (cy - y0) / (y1 - y0) * side - 0.5
    for row, row_weight in ((math.floor(v), 1 - (v - math.floor(v))), (math.floor(v) + 1, v - math.floor(v))):
        for col, col_weight in ((math.floor(u), 1 - (u - math.floor(u))), (math.floor(u) + 1, u - math.floor(u))):
            texel = mask[min(max(row, 0), side - 1)][min(max(col, 0), side - 1)]
            value += row_weight * col_weight * texel
    return value


def slow_flatten(masks, boxes, size, threshold):
    masks, boxes = masks.tolist(), boxes.tolist()
    result = torch.zeros(size, dtype=torch.float64)
    for y in range(size[0]):
        for x in range(size[1]):
            values = [slow_value(m, b, x, y) for m, b in zip(masks, boxes, strict=True)]
            values = [v for v in values if v is not None and v >= threshold]
            if values:
                result[y, x] = sum(values) / len(values)
    return result


def random_case(rng, generator):
    size = (rng.randint(1, 14), rng.randint(1, 14))
    num = rng.choice([0, 1, 1, 2, 3, 5])
    side = rng.choice([1, 2, 4, 7])
    boxes = []
    for _ in range(num):
        kind = rng.choice(["inside", "over", "outside", "empty", "whole pixels"])
        w, h = rng.uniform(0.3, size[1]), rng.uniform(0.3, size[0])
        x, y = rng.uniform(0, max(size[1] - w, 0.01)), rng.uniform(0, max(size[0] - h, 0.01))
        if kind == "over":
            x, y = rng.uniform(-w, size[1]), rng.uniform(-h, size[0])
        elif kind == "outside":
            x = size[1] + rng.uniform(0, 5)
        elif kind == "empty":
            w = 0.0
        elif kind == "whole pixels":
            x, y, w, h = int(x), int(y), math.ceil(w), math.ceil(h)
        boxes.append([x, y, x + w, y + h])
    masks = torch.rand(num, side, side, generator=generator, dtype=torch.float64)
    return masks, torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4), size


@pytest.mark.parametrize("chunk", [1, 2**18])
def test_equals_a_loop_over_pixels(chunk, monkeypatch):
    monkeypatch.setitem(MAX_CHUNK_ELEMENTS, "cpu", chunk)
    rng, generator = random.Random(0), torch.Generator().manual_seed(0)
    covered = overlapping = 0
    for _ in range(500):
        masks, boxes, size = random_case(rng, generator)
        threshold = rng.choice([0.5, 0.5, 0.3])
        expected = slow_flatten(masks, boxes, size, threshold)
        torch.testing.assert_close(roi_flatten(masks, boxes, size, threshold), expected, rtol=0, atol=1e-9)
        covered += bool((expected > 0).any())
        overlapping += len(masks) > 1
    assert covered > 200 and overlapping > 200  # the cases are not trivial


def test_hand_computed():
    # A 2 x 2 mask over 4 x 4 pixels of a 4 x 6 map: centres at texel positions -0.25, 0.25, 0.75, 1.25, clamped to
    # 0..1.
    mask = torch.tensor([[[1.0, 0.2], [1.0, 0.2]]])
    flat = roi_flatten(mask, torch.tensor([[1.0, 0.0, 5.0, 4.0]]), (4, 6))
    # Columns: 1.0, 0.8, 0.4 (below the threshold), 0.2.
    torch.testing.assert_close(flat, torch.tensor([[0.0, 1.0, 0.8, 0.0, 0.0, 0.0]]).expand(4, 6))
    # A second instance of 0.6 over the whole map: the mean where both claim a pixel, 0.6 elsewhere.
    boxes = torch.tensor([[1.0, 0.0, 5.0, 4.0], [0.0, 0.0, 6.0, 4.0]])
    both = roi_flatten(torch.stack([mask[0], torch.full((2, 2), 0.6)]), boxes, (4, 6))
    torch.testing.assert_close(both, torch.tensor([[0.6, 0.8, 0.7, 0.6, 0.6, 0.6]]).expand(4, 6))


def test_a_box_of_whole_pixels_is_interpolate():
    mask = torch.rand(1, 28, 28, dtype=torch.float64)
    flat = roi_flatten(mask, torch.tensor([[3.0, 2.0, 43.0, 35.0]]), (50, 60), threshold=1e-9)
    expected = F.interpolate(mask[None], size=(33, 40), mode="bilinear", align_corners=False)[0, 0]
    torch.testing.assert_close(flat[2:35, 3:43], expected)
    assert (flat > 0).sum() == 33 * 40


def test_agrees_with_pasting_inside_of_the_edge():
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(20, 1, 4, 4, generator=generator)
    masks = F.interpolate(coarse, size=(28, 28), mode="bicubic")[:, 0].clamp(0, 1)
    corner = torch.rand(20, 2, generator=generator) * 40
    boxes = torch.cat([corner, corner + 10 + 40 * torch.rand(20, 2, generator=generator)], 1)
    pasted = paste_masks_in_image(masks, boxes, (100, 100), threshold=0.5)
    for mask, box, expected in zip(masks, boxes, pasted, strict=True):
        ours = roi_flatten(mask[None], box[None], (100, 100)) > 0
        edge = ((box[2:] - box[:2]) / 56).ceil().long() + 1
        x0, y0 = (box[:2].ceil().long() + edge).tolist()
        x1, y1 = (box[2:].floor().long() - edge).tolist()
        assert torch.equal(ours[y0:y1, x0:x1], expected[y0:y1, x0:x1])
        assert (ours | expected).sum() == ours.sum()  # pasting claims nothing that flattening does not


def test_gradcheck():
    rng, generator = random.Random(2), torch.Generator().manual_seed(2)
    checked = 0
    while checked < 12:
        masks, boxes, size = random_case(rng, generator)
        if len(masks) == 0 or _near_threshold(masks, boxes, size):
            continue
        masks.requires_grad_()
        assert torch.autograd.gradcheck(lambda m, b=boxes, s=size: roi_flatten(m, b, s), (masks,), eps=1e-7, atol=1e-5)
        checked += 1


def _near_threshold(masks, boxes, size):
    """Whether a value is so close to 0.5 that a finite difference steps over it."""
    singles = [slow_flatten(m[None], b[None], size, 0.0) for m, b in zip(masks, boxes, strict=True)]
    return bool(((torch.stack(singles) - 0.5).abs() < 1e-5).any())


def test_values_below_the_threshold_get_no_gradient():
    masks = torch.tensor([[[0.9, 0.1], [0.9, 0.1]]], requires_grad=True)
    roi_flatten(masks, torch.tensor([[0.0, 0.0, 2.0, 2.0]]), (2, 2)).sum().backward()
    torch.testing.assert_close(masks.grad, torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]))


def test_a_value_at_the_threshold_is_kept():
    """Texels of exactly 0.5 and of the float below it, each on its own pixel; 0.75 at a threshold of 0.75."""
    below = torch.nextafter(torch.tensor(0.5), torch.tensor(0.0))
    mask = torch.tensor([[[0.5, 1.0], [float(below), 0.25]]], requires_grad=True)
    box = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
    flat = roi_flatten(mask, box, (2, 2))
    assert flat.tolist() == [[0.5, 1.0], [0.0, 0.0]]
    flat.sum().backward()
    assert mask.grad.tolist() == [[[1.0, 1.0], [0.0, 0.0]]]
    assert roi_flatten(torch.full((1, 2, 2), 0.75), box, (2, 2), threshold=0.75).tolist() == [[0.75, 0.75]] * 2


def test_no_instance():
    masks = torch.zeros(0, 28, 28, requires_grad=True)
    flat = roi_flatten(masks, torch.zeros(0, 4), (5, 7))
    assert flat.shape == (5, 7) and not flat.any()
    flat.sum().backward()
    assert masks.grad.shape == (0, 28, 28)


def test_hundreds_of_instances_and_what_is_kept_for_backward():
    size, num = (64, 96), 400
    masks = torch.rand(num, 28, 28, dtype=torch.float64, requires_grad=True)
    corner = torch.rand(num, 2, dtype=torch.float64) * 60
    boxes = torch.cat([corner, corner + 1 + 30 * torch.rand(num, 2, dtype=torch.float64)], 1)
    saved = {}

    def pack(tensor):
        saved[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        flat = roi_flatten(masks, boxes, size)
    assert sum(saved.values()) <= masks.numel() + boxes.numel() + size[0] * size[1]
    torch.testing.assert_close(flat, slow_flatten_fast(masks.detach(), boxes, size))
    flat.sum().backward()
    assert torch.isfinite(masks.grad).all() and masks.grad.abs().sum() > 0


def slow_flatten_fast(masks, boxes, size):
    """The definition from one map an instance, for cases too large for the loop over pixels."""
    maps = torch.stack([roi_flatten(m[None], b[None], size) for m, b in zip(masks, boxes, strict=True)])
    return maps.sum(0) / (maps > 0).sum(0).clamp(min=1)


def test_half_precision_and_autocast_compute_in_float32():
    masks = torch.rand(3, 28, 28)
    boxes = torch.tensor([[0.0, 0.0, 9.5, 8.0], [2.0, 1.0, 7.0, 9.0], [4.0, 4.0, 30.0, 20.0]])
    expected = roi_flatten(masks, boxes, (20, 20))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(roi_flatten(masks, boxes, (20, 20)), expected)
    half = roi_flatten(masks.half(), boxes, (20, 20))
    assert half.dtype == torch.float32


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="masks"):
        roi_flatten(torch.rand(2, 28, 28), torch.rand(3, 4), (5, 5))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_cuda_it_reads_nothing_on_the_host():
    masks = torch.rand(50, 28, 28, device="cuda", requires_grad=True)
    corner = torch.rand(50, 2, device="cuda") * 60
    boxes = torch.cat([corner, corner + 30], 1)
    torch.cuda.set_sync_debug_mode("error")
    try:
        flat = roi_flatten(masks, boxes, (64, 64))
        flat.sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(flat.cpu(), roi_flatten(masks.detach().cpu(), boxes.cpu(), (64, 64)))

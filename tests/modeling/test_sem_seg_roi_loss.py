"""The RoI loss of UPSNet against loops written from the facts (section 1.6)."""

import random

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes

from panoptic_fusion.modeling.stuff_heads.roi_loss import label_patches, sem_seg_roi_loss

IGNORE = 255


def slow_roi_align(logits, box, scale, side):
    """(C, side, side) from (C, h, w): not aligned, 2 x 2 samples a bin, regions of at least one pixel."""
    _, h, w = logits.shape
    x0, y0, x1, y1 = (v * scale for v in box)
    bin_w, bin_h = max(x1 - x0, 1.0) / side, max(y1 - y0, 1.0) / side
    patch = np.zeros((logits.shape[0], side, side))
    for i in range(side):
        for j in range(side):
            for u in (0.25, 0.75):
                for v in (0.25, 0.75):
                    y, x = y0 + (i + u) * bin_h, x0 + (j + v) * bin_w
                    if y < -1 or y > h or x < -1 or x > w:
                        continue  # zero
                    y, x = min(max(y, 0), h - 1), min(max(x, 0), w - 1)
                    r, c = min(int(y), max(h - 2, 0)), min(int(x), max(w - 2, 0))
                    below, right = min(r + 1, h - 1), min(c + 1, w - 1)
                    dy, dx = y - r, x - c
                    value = (1 - dy) * ((1 - dx) * logits[:, r, c] + dx * logits[:, r, right])
                    value = value + dy * ((1 - dx) * logits[:, below, c] + dx * logits[:, below, right])
                    patch[:, i, j] += value / 4
    return patch


def slow_patch_of_labels(labels, box, side):
    x0, y0, x1, y1 = (int(np.around(v)) for v in box)
    if x1 == x0:
        x1 += 1
    if y1 == y0:
        y1 += 1
    crop = labels[y0:y1, x0:x1]
    patch = np.zeros((side, side), dtype=np.int64)
    for i in range(side):
        for j in range(side):
            patch[i, j] = crop[i * crop.shape[0] // side, j * crop.shape[1] // side]
    return patch


def slow_loss(logits, labels, boxes, side):
    """Mean over the images of the mean over all elements of all patches; ignored ones count as 0."""
    images = []
    for image_logits, image_labels, image_boxes in zip(logits, labels, boxes, strict=True):
        scale = image_logits.shape[1] / image_labels.shape[0]
        elements = []
        for box in image_boxes:
            scores = slow_roi_align(image_logits, box, scale, side)
            targets = slow_patch_of_labels(image_labels, box, side)
            for i in range(side):
                for j in range(side):
                    if targets[i, j] == IGNORE:
                        elements.append(0.0)
                    else:
                        column = scores[:, i, j]
                        biggest = column.max()
                        total = biggest + np.log(np.exp(column - biggest).sum())
                        elements.append(total - column[targets[i, j]])
        images.append(sum(elements) / len(elements) if elements else 0.0)
    return sum(images) / len(images)


def random_box(rng, height, width):
    """In the image: any, touching the border, less than a pixel, without width or height, all of the image."""
    kind = rng.randrange(6)
    if kind == 0:
        return [0.0, 0.0, float(width), float(height)]
    x0, x1 = sorted(rng.uniform(0, width) for _ in range(2))
    y0, y1 = sorted(rng.uniform(0, height) for _ in range(2))
    if kind == 1:
        x0, y1 = 0.0, float(height)
    if kind == 2:
        x0, y0 = rng.uniform(0, width - 1), rng.uniform(0, height - 1)
        x1, y1 = x0 + rng.random() * 0.9, y0 + rng.random() * 0.9
    if kind == 3:
        x0 = x1 = float(rng.randrange(width))
    if kind == 4:
        x0, y0, x1, y1 = (float(round(v)) for v in (x0, y0, x1, y1))
    # The facts leave open what a box does that rounds to nothing at the far border.
    return [min(x0, width - 0.51), min(y0, height - 0.51), x1, y1]


def test_equals_the_facts():
    rng, seed = random.Random(0), np.random.default_rng(0)
    for case in range(300):
        side = 28 if case % 60 == 0 else rng.randint(1, 4)
        stride, num, channels = rng.choice([1, 2, 4]), rng.randint(1, 3), rng.randint(1, 5)
        h, w = rng.randint(1, 9), rng.randint(1, 9)
        logits = 3 * seed.standard_normal((num, channels, h, w))
        labels = seed.integers(0, channels, (num, stride * h, stride * w))
        labels[seed.random(labels.shape) < rng.choice([0, 0.3, 1])] = IGNORE
        boxes = [[random_box(rng, stride * h, stride * w) for _ in range(rng.randint(0, 3))] for _ in range(num)]
        loss = sem_seg_roi_loss(
            torch.from_numpy(logits),
            torch.from_numpy(labels),
            [Boxes(torch.tensor(b, dtype=torch.float64).reshape(-1, 4)) for b in boxes],
            patch_size=side,
        )
        # Boxes holds float32, so the oracle must too.
        boxes = [np.array(b, dtype=np.float32).astype(float).reshape(-1, 4) for b in boxes]
        assert loss.item() == pytest.approx(slow_loss(logits, labels, boxes, side), rel=1e-9, abs=1e-12), case


def test_by_hand():
    """A logit of 1 for class 0 everywhere; the box holds 3 pixels of class 0, one of class 1 and no ground truth."""
    logits = torch.stack([torch.ones(4, 4), torch.zeros(4, 4)])[None]
    labels = torch.full((1, 4, 4), IGNORE)
    labels[0, 1, 1:3] = 0
    labels[0, 2, 1], labels[0, 2, 2] = 0, 1
    right, wrong = np.log(1 + np.exp(-1)), np.log(1 + np.exp(1))
    box = Boxes(torch.tensor([[1.0, 1.0, 3.0, 3.0]]))
    assert sem_seg_roi_loss(logits, labels, [box]).item() == pytest.approx((3 * right + wrong) / 4)
    labels[0, 2, 2] = IGNORE  # counts as 0
    assert sem_seg_roi_loss(logits, labels, [box]).item() == pytest.approx(3 * right / 4)
    # By box and by image: a second box of one right pixel, a second image without things.
    both = Boxes(torch.tensor([[1.0, 1.0, 3.0, 3.0], [2.0, 1.0, 3.0, 2.0]]))
    loss = sem_seg_roi_loss(logits.repeat(2, 1, 1, 1), labels.repeat(2, 1, 1), [both, Boxes(torch.zeros(0, 4))])
    assert loss.item() == pytest.approx((3 * right / 4 + right) / 2 / 2)


def test_boxes_over_the_border_are_cut():
    labels = torch.arange(12).view(1, 3, 4)
    rois = torch.tensor(
        [[0, -5, -5, 2, 2], [0, 2, 1, 90, 90], [0, 4, 3, 4, 3], [0, 3, 2, 1, 1], [0, -4, -3, -2, -1]],
        dtype=torch.float32,
    )
    patches = label_patches(labels, rois, 2)
    assert patches[0].tolist() == [[0, 1], [4, 5]]
    assert patches[1].tolist() == [[6, 7], [10, 11]]
    assert patches[2].unique().tolist() == [11]  # the corner
    assert patches[3].unique().tolist() == [11]  # inverted: its first pixel
    assert patches[4].unique().tolist() == [0]


def test_many_boxes_and_gradient():
    torch.manual_seed(0)
    logits = torch.randn(1, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 3, (1, 16, 20))
    boxes = [Boxes(torch.tensor([[1.5, 2, 17, 13.2], [0, 0, 20, 16], [7, 7, 7, 7]]))]
    assert torch.autograd.gradcheck(lambda x: sem_seg_roi_loss(x, labels, boxes, patch_size=4), [logits])
    corners = torch.rand(300, 4) * torch.tensor([10, 8, 10, 8]) + torch.tensor([0, 0, 10, 8])
    loss = sem_seg_roi_loss(logits, labels, [Boxes(corners)], patch_size=7)
    single = [sem_seg_roi_loss(logits, labels, [Boxes(c[None])], patch_size=7).item() for c in corners]
    assert loss.item() == pytest.approx(sum(single) / 300)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    torch.manual_seed(0)
    logits = (100 * torch.randn(2, 5, 8, 8)).to(dtype).requires_grad_()
    labels = torch.randint(0, 5, (2, 32, 32))
    boxes = [Boxes(torch.tensor([[1.0, 2.0, 30.0, 31.0]])), Boxes(torch.zeros(0, 4))]
    with torch.autocast("cpu", dtype):
        loss = sem_seg_roi_loss(logits, labels, boxes)
    torch.testing.assert_close(loss, sem_seg_roi_loss(logits.float(), labels, boxes))
    loss.backward()
    assert logits.grad.dtype == dtype and logits.grad.isfinite().all()


def test_no_box():
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = sem_seg_roi_loss(logits, torch.zeros(2, 16, 16, dtype=torch.int64), [Boxes(torch.zeros(0, 4))] * 2)
    assert loss == 0
    loss.backward()
    assert logits.grad.abs().sum() == 0

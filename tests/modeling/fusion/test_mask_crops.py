"""MaskCrops: the same bit masks as detectron2's paste_masks_in_image, on boxes in, on and over the border."""

import math

import pytest
import torch
from detectron2.layers import paste_masks_in_image
from detectron2.layers.mask_ops import _do_paste_mask
from detectron2.structures import Boxes, Instances

from panoptic_fusion.layers.chunks import MAX_CHUNK_ELEMENTS
from panoptic_fusion.modeling.fusion.mask_crops import BitmaskCrops, MaskCrops, PastedCrops

SIZE = (41, 53)


def full_masks(crops):
    masks = torch.zeros(len(crops), *crops.size, dtype=torch.bool)
    for i, (rows, cols) in enumerate(crops.windows):
        masks[i, rows, cols] = crops[i]
    return masks


def random_boxes(num, size=SIZE, margin=12.0):
    """Boxes of any size, whole and fractional, some over the border, none empty."""
    height, width = size
    corner = torch.rand(num, 2) * torch.tensor([width + margin, height + margin]) - margin
    side = torch.rand(num, 2) ** 2 * torch.tensor([width, height]) + 0.05
    boxes = torch.cat([corner, corner + side], dim=1)
    whole = torch.rand(num) < 0.3
    boxes[whole] = torch.cat([boxes[whole, :2].round(), boxes[whole, :2].round() + side[whole].ceil()], dim=1)
    return boxes


def smooth_maps(num, side=28):
    return torch.nn.functional.interpolate(torch.randn(num, 1, 5, 5) * 3, size=(side, side), mode="bicubic")[:, 0]


def paste_probabilities(probabilities, boxes, size):
    """Probability of every pixel by loops over pixels, in float64; zeros around the map."""
    side = probabilities.shape[-1]
    result = torch.zeros(len(boxes), *size, dtype=torch.float64)
    maps = probabilities.double().tolist()
    for n, (x0, y0, x1, y1) in enumerate(boxes.double().tolist()):
        for y in range(size[0]):
            v = (y + 0.5 - y0) / (y1 - y0) * side - 0.5
            if not -1 < v < side:
                continue
            for x in range(size[1]):
                u = (x + 0.5 - x0) / (x1 - x0) * side - 0.5
                if not -1 < u < side:
                    continue
                total = 0.0
                for j in (math.floor(v), math.floor(v) + 1):
                    for i in (math.floor(u), math.floor(u) + 1):
                        if 0 <= i < side and 0 <= j < side:
                            total += maps[n][j][i] * (1 - abs(u - i)) * (1 - abs(v - j))
                result[n, y, x] = total
    return result


@pytest.mark.parametrize("side", [28, 14, 7])
def test_pastes_as_detectron2(side):
    torch.manual_seed(side)
    boxes = random_boxes(400)
    probabilities = smooth_maps(400, side).sigmoid()
    ours = full_masks(PastedCrops(probabilities, boxes, SIZE))
    # paste_masks_in_image fails for boxes left of or above the image; without skip_empty it is the same function.
    theirs = _do_paste_mask(probabilities[:, None], boxes, *SIZE, skip_empty=False)[0] >= 0.5
    different = (ours != theirs).nonzero().tolist()
    assert len(different) < 20
    exact = paste_probabilities(probabilities, boxes, SIZE) if different else None
    for n, y, x in different:
        assert abs(exact[n, y, x] - 0.5) < 1e-5
    assert theirs.flatten(1).any(1).sum() > 200  # the test means something

    clipped = Boxes(boxes.clone())
    clipped.clip(SIZE)
    inside = clipped.nonempty()
    theirs = paste_masks_in_image(probabilities[inside], clipped[inside], SIZE)
    ours = full_masks(PastedCrops(probabilities[inside], clipped.tensor[inside], SIZE))
    assert (ours != theirs).sum() < 20


def test_equals_loops_over_pixels():
    torch.manual_seed(1)
    boxes = random_boxes(60)
    probabilities = torch.rand(60, 6, 6)
    probabilities[:10] = 1.0
    exact = paste_probabilities(probabilities, boxes, SIZE)
    ours = full_masks(PastedCrops(probabilities, boxes, SIZE))
    clear = (exact - 0.5).abs() > 1e-5
    assert torch.equal(ours[clear], (exact >= 0.5)[clear])
    assert clear.float().mean() > 0.99


def test_by_hand():
    # A 2 x 2 map of ones on the box (2, 1)-(6, 3), columns 2..5 and rows 1..2. The centres of the outermost pixels lie
    # a quarter of a texel outside of the texels' centres along x (there zeros weigh 1/4) and on them along y.
    crops = PastedCrops(torch.ones(1, 2, 2), torch.tensor([[2.0, 1.0, 6.0, 3.0]]), (5, 8))
    expected = torch.zeros(5, 8, dtype=torch.bool)
    expected[1:3, 2:6] = True
    assert torch.equal(full_masks(crops)[0], expected)
    assert crops.windows == [(slice(0, 4), slice(1, 7))]


@pytest.mark.parametrize("chunk", [2**18, 700])
def test_samples_are_pixels_of_the_crops(chunk, monkeypatch):
    """Of all kinds of boxes, some inverted or outside, and of masks that reach over their boxes."""
    monkeypatch.setitem(MAX_CHUNK_ELEMENTS, "cpu", chunk)
    torch.manual_seed(4)
    boxes = random_boxes(60)
    boxes[:4] = torch.tensor([[9.0, 9, 4, 4], [-30, -30, -20, -20], [5, 5, 5, 5], [-100, -100, 153, 141]])
    rows, cols = torch.tensor([0, 3, 7, 20, 40]), torch.tensor([0, 1, 13, 14, 30, 51, 52])
    some = torch.tensor([3, 0, 59, 3, 20, 2, 1, *range(10, 40)])
    pasted = PastedCrops(smooth_maps(60).sigmoid(), boxes, SIZE)
    views = BitmaskCrops(torch.rand(60, *SIZE) < 0.5, boxes)
    for crops in (pasted, views):
        sampled = crops.sample(some, rows, cols)
        assert torch.equal(sampled, full_masks(crops)[some][:, rows][:, :, cols])
        assert sampled.any() and not sampled.all()
        assert crops.sample(some[:0], rows, cols).shape == (0, 5, 7)


def test_bitmask_crops_are_views():
    torch.manual_seed(2)
    boxes = random_boxes(50, margin=0.0)
    masks = paste_masks_in_image(smooth_maps(50).sigmoid(), boxes, SIZE)
    crops = BitmaskCrops(masks, boxes)
    assert crops.size == SIZE and len(crops) == 50
    assert torch.equal(full_masks(crops), masks)
    assert crops[0].untyped_storage().data_ptr() == masks.untyped_storage().data_ptr()


@pytest.mark.parametrize(
    "box", [[5.0, 5, 5, 9], [5.5, 5.5, 5.5, 5.5], [9.0, 9, 4, 4], [-30, -30, -20, -20], [90, 90, 99, 99]]
)
def test_degenerate_and_outer_boxes_give_empty_masks(box):
    boxes = torch.tensor([[3.0, 3, 20, 20], box])
    crops = PastedCrops(torch.ones(2, 28, 28), boxes, SIZE)
    masks = full_masks(crops)
    assert masks[0].sum() == 17 * 17
    assert not masks[1].any()
    assert not full_masks(BitmaskCrops(torch.zeros(2, *SIZE, dtype=torch.bool), boxes)).any()


def test_box_of_the_whole_image_and_beyond():
    boxes = torch.tensor([[0.0, 0, 53, 41], [-100, -100, 153, 141]])
    crops = PastedCrops(torch.ones(2, 28, 28), boxes, SIZE)
    assert full_masks(crops).all()
    assert crops.windows == [(slice(0, 41), slice(0, 53))] * 2


def test_no_instance():
    assert len(PastedCrops(torch.zeros(0, 28, 28), torch.zeros(0, 4), SIZE)) == 0
    assert len(BitmaskCrops(torch.zeros(0, *SIZE, dtype=torch.bool), torch.zeros(0, 4))) == 0


def test_from_instances():
    torch.manual_seed(3)
    logits, boxes = smooth_maps(5), random_boxes(5)
    pasted = Instances(SIZE, pred_boxes=Boxes(boxes), pred_mask_logits=logits.half())
    masks = full_masks(MaskCrops.from_instances(pasted))
    assert torch.equal(masks, full_masks(PastedCrops(logits.half().float().sigmoid(), boxes, SIZE)))
    with_masks = Instances(SIZE, pred_boxes=Boxes(boxes), pred_masks=masks)
    assert torch.equal(full_masks(MaskCrops.from_instances(with_masks)), masks)
    with pytest.raises(ValueError, match="pred_mask_logits or pred_masks"):
        MaskCrops.from_instances(Instances(SIZE, pred_boxes=Boxes(boxes)))

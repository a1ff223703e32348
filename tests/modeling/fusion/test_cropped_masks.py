"""Masks that are stored as the pixels of their boxes, against tensors (R, H, W)."""

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Instances

from panoptic_fusion import fuse
from panoptic_fusion.data.importers.masks import Crop, empty_crop, tight_crop
from panoptic_fusion.modeling.fusion.cropped_masks import CroppedMasks
from panoptic_fusion.modeling.fusion.rules import RULES


def random_masks(rng, num, size):
    """(R, H, W) bool: blocks with holes, some of them empty, some at the borders."""
    masks = np.zeros((num, *size), bool)
    for mask in masks:
        y, x = (int(rng.integers(-2, side)) for side in size)
        mask[max(y, 0) : y + int(rng.integers(0, 9)), max(x, 0) : x + int(rng.integers(0, 9))] = True
        mask &= rng.random(size) < 0.8
    return masks


def cropped(masks):
    return CroppedMasks.of_crops([tight_crop(mask) for mask in masks], masks.shape[1:])


def test_by_hand():
    masks = CroppedMasks.of_crops([Crop(np.array([[True, False], [True, True]]), 1, 2), empty_crop()], (4, 5))
    assert masks.shape == (2, 4, 5) and len(masks) == 2
    assert masks.boxes.tolist() == [[2, 1, 4, 3], [0, 0, 0, 0]] and masks.pixels.tolist() == [True, False, True, True]
    assert masks[0, slice(0, 3), slice(1, 4)].tolist() == [
        [False, False, False], [False, True, False], [False, True, True]
    ]  # fmt: skip
    assert masks[0, slice(3, 4), slice(0, 5)].tolist() == [[False] * 5]
    assert not masks[1, slice(0, 4), slice(0, 5)].any()


@pytest.mark.parametrize("num", [0, 1, 7])
def test_every_index_reads_what_a_tensor_has(num):
    rng = np.random.default_rng(num)
    for _ in range(30):
        size = tuple(int(side) for side in rng.integers(1, 14, 2))
        dense = torch.from_numpy(random_masks(rng, num, size))
        masks = cropped(dense.numpy())
        assert masks.shape == dense.shape and masks.pixels.numel() <= dense.numel()
        assert torch.equal(masks.boxes.float(), BitMasks(dense).get_bounding_boxes().tensor)
        rows = torch.from_numpy(rng.integers(0, num, 3)) if num else torch.zeros(0, dtype=torch.int64)
        for index in (rows, slice(1, None), dense.flatten(1).any(1)):
            part = masks[index]
            whole = [part[i, slice(0, size[0]), slice(0, size[1])] for i in range(len(part))]
            assert torch.equal(torch.stack([*whole, torch.zeros(size, dtype=torch.bool)])[:-1], dense[index])
        for i in range(num):
            top, left = (int(rng.integers(0, side + 1)) for side in size)
            window = (slice(top, size[0]), slice(left, int(rng.integers(left, size[1] + 1))))
            assert torch.equal(masks[i, *window], dense[i, *window])
        y, x = (torch.from_numpy(rng.integers(0, side, 5)) for side in size)
        assert torch.equal(masks[rows[:, None, None], y[:, None], x], dense[rows[:, None, None], y[:, None], x])


def test_a_field_of_instances():
    masks = cropped(random_masks(np.random.default_rng(0), 4, (6, 7)))
    instances = Instances((6, 7), scores=torch.rand(4))
    instances.pred_masks = masks
    kept = instances[torch.tensor([2, 0])].pred_masks
    assert len(kept) == 2 and torch.equal(kept.boxes, masks.boxes[[2, 0]])
    assert kept.pixels is masks.pixels


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("with_boxes", [False, True])
def test_every_rule_fuses_them_like_a_tensor(rule, with_boxes):
    """The boxes may be computed, or given and not fit the masks."""
    rng = np.random.default_rng(5)
    segments = 0
    for _ in range(40):
        size, num = tuple(int(side) for side in rng.integers(6, 20, 2)), int(rng.integers(0, 6))
        dense = random_masks(rng, num, size)
        arguments = {
            "scores": rng.integers(8, 20, num) / 20,
            "classes": rng.integers(0, 2, num),
            "stuff_classes": 2,
            "thing_classes": 2,
            "rule": rule,
            "stuff_area_limit": 4,
            "ranking": rng.random(num) if rule == "spatial_ranking" else None,
        }
        if with_boxes:
            corner = rng.uniform(-1, 9, (num, 2))
            arguments["boxes"] = np.concatenate([corner, corner + rng.uniform(2, 12, (num, 2))], axis=1)
        logits = rng.normal(size=(4, *size)).astype(np.float32)
        logits[2:] += 1
        expected, found = (fuse(logits, masks, size=size, **arguments) for masks in (dense, cropped(dense)))
        assert np.array_equal(found[0], expected[0]) and found[1] == expected[1]
        segments += sum(s["isthing"] for s in found[1])
    assert segments > (5 if with_boxes else 20)


def test_memory_follows_the_boxes_and_not_the_image():
    """As tensors, these masks would take 300 TB."""
    size = (1_000_000, 1_000_000)
    crops = [Crop(np.ones((3, 4), bool), 10 * i, 5 * i) for i in range(300)]
    masks = CroppedMasks.of_crops(crops, size)
    assert masks.pixels.numel() == 300 * 12
    assert masks[7, slice(69, 74), slice(34, 40)].sum() == 12
    assert masks[torch.tensor([7]), torch.tensor([71]), torch.tensor([36])].tolist() == [True]

"""Training of the RoI heads: detectron2's losses bit for bit, without a whole mask for each sampled proposal."""

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import StandardROIHeads, build_roi_heads
from detectron2.structures import BitMasks, Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from panoptic_fusion import get_cfg
from panoptic_fusion.modeling.things.indexed_masks import IndexedMasks

SIZE, THINGS, SAMPLED = (192, 256), 5, 48


class LargestTensor(TorchDispatchMode):
    """The number of elements of the largest tensor that is made."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.elements = max([self.elements, *(x.numel() for x in tree_leaves(made) if isinstance(x, torch.Tensor))])
        return made


def heads_config(agnostic: bool = False, seamless: bool = False) -> CfgNode:
    cfg = get_cfg()
    cfg.MODEL.ROI_HEADS.NAME = "SeamlessROIHeads" if seamless else "PanopticROIHeads"
    cfg.MODEL.ROI_HEADS.IN_FEATURES, cfg.MODEL.ROI_HEADS.NUM_CLASSES = ["p2", "p3"], 3
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE, cfg.MODEL.ROI_HEADS.POSITIVE_FRACTION = SAMPLED, 0.5
    cfg.MODEL.ROI_BOX_HEAD.NAME, cfg.MODEL.ROI_MASK_HEAD.NAME = "FastRCNNConvFCHead", "MaskRCNNConvUpsampleHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC, cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 1, 8
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV, cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 1, 4
    cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION, cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK = 14, agnostic
    if seamless:
        cfg.MODEL.ROI_BOX_HEAD.NAME, cfg.MODEL.ROI_MASK_HEAD.NAME = "SeamlessBoxHead", "SeamlessMaskHead"
        cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION, cfg.MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA = 14, 1.0
        cfg.MODEL.ROI_BOX_HEAD.NORM = cfg.MODEL.ROI_MASK_HEAD.NORM = "GN"
        cfg.MODEL.ROI_BOX_HEAD.FC_DIM = cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 32
    return cfg


def build_heads(cfg: CfgNode, kind=None, channels: int = 4):
    shapes = {f"p{level}": ShapeSpec(channels=channels, stride=2**level) for level in (2, 3)}
    torch.manual_seed(1)
    return (build_roi_heads(cfg, shapes) if kind is None else kind(cfg, shapes)).train()


def random_batch(num_things: tuple[int, ...], seed: int = 0, channels: int = 4) -> tuple:
    """Images, features, 120 proposals an image near its things, and targets with masks of noise."""
    generator = torch.Generator().manual_seed(seed)
    num, (height, width) = len(num_things), SIZE
    images = ImageList(torch.zeros(num, 3, *SIZE), [SIZE] * num)
    features = {
        f"p{level}": torch.randn(num, channels, height >> level, width >> level, generator=generator)
        for level in (2, 3)
    }
    proposals, targets = [], []
    for things in num_things:
        corners = torch.rand(things, 2, generator=generator) * 100
        boxes = torch.cat([corners, corners + 20 + 60 * torch.rand(things, 2, generator=generator)], dim=1)
        masks = torch.rand(things, height, width, generator=generator) < 0.5
        classes = torch.randint(3, (things,), generator=generator)
        targets.append(Instances(SIZE, gt_boxes=Boxes(boxes), gt_classes=classes, gt_masks=BitMasks(masks)))
        near = boxes if things else torch.tensor([[10.0, 10, 60, 60]])
        boxes = near.repeat(120 // len(near) + 1, 1)[:120]
        noise = torch.tensor([3.0, 30.0]).repeat(60)[:, None]  # a close one, one that may be background, and so on
        boxes = boxes + noise * torch.randn(120, 4, generator=generator)
        proposals.append(Instances(SIZE, proposal_boxes=Boxes(boxes), objectness_logits=torch.zeros(120)))
    return images, features, proposals, targets


def train_step(heads, batch) -> tuple[list[Instances], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The regions, the losses, the gradients."""
    torch.manual_seed(2)
    with EventStorage():
        regions, losses = heads(*batch)
        sum(losses.values()).backward()
    return regions, losses, {name: p.grad for name, p in heads.named_parameters()}


@pytest.mark.parametrize("num_things", [(THINGS, 1), (0, 3), (0, 0)])
@pytest.mark.parametrize("agnostic", [False, True])
def test_losses_and_gradients_are_those_of_detectron2(num_things, agnostic):
    cfg = heads_config(agnostic)
    regions, losses, gradients = train_step(build_heads(cfg), random_batch(num_things))
    _, expected, expected_gradients = train_step(build_heads(cfg, StandardROIHeads), random_batch(num_things))
    assert losses.keys() == expected.keys() and "loss_mask" in losses
    assert all(torch.equal(losses[name], expected[name]) for name in expected)
    assert all(torch.equal(gradients[name], expected_gradients[name]) for name in expected_gradients)
    assert [len(x) > 0 for x in regions] == [things > 0 for things in num_things]


@pytest.mark.parametrize("seamless", [False, True])
def test_no_region_has_a_whole_mask_of_its_own(seamless):
    channels = 16 if seamless else 4
    heads = build_heads(heads_config(seamless=seamless), channels=channels)
    batch = random_batch((THINGS,), channels=channels)
    targets = batch[-1]
    with LargestTensor() as largest, EventStorage():
        sampled = heads.label_and_sample_proposals(batch[2], targets)
    assert len(sampled[0]) == SAMPLED and largest.elements <= THINGS * SIZE[0] * SIZE[1]
    with LargestTensor() as largest:
        regions, _, _ = train_step(heads, batch)
    assert len(regions[0]) >= 2 * THINGS
    assert largest.elements < len(regions[0]) * SIZE[0] * SIZE[1]
    assert isinstance(targets[0].gt_masks, BitMasks)  # of the other parts of the network
    for box, mask in zip(regions[0].gt_boxes, regions[0].gt_masks.index, strict=True):
        assert torch.equal(box, targets[0].gt_boxes.tensor[mask])


@pytest.mark.parametrize("count", [0, 1, 40])
def test_crops_of_indexed_masks_are_those_of_copies(count):
    generator = torch.Generator().manual_seed(3)
    masks = torch.rand(6, 64, 96, generator=generator) < 0.5
    index = torch.randint(5, (count,), generator=generator)  # nobody has the last mask
    corners = torch.rand(count, 2, generator=generator) * 60 - 10  # some boxes reach out of the image
    boxes = torch.cat([corners, corners + torch.rand(count, 2, generator=generator) * 40], dim=1)
    indexed = IndexedMasks(masks)[index]
    chosen = torch.rand(count, generator=generator) < 0.5
    for part, where in ((indexed, slice(None)), (indexed[chosen], chosen)):
        assert len(part) == len(boxes[where])
        expected = BitMasks(masks[index[where]]).crop_and_resize(boxes[where], 28)
        assert torch.equal(part.crop_and_resize(boxes[where], 28), expected)

"""MODEL.FREEZE: what stays, what learns, which losses are left; also with two processes."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch.nn.parallel import DistributedDataParallel
from two_processes import run_in_two_processes

from panoptic_fusion import config_file, get_cfg
from panoptic_fusion.errors import ConfigError
from panoptic_fusion.networks.freeze import freeze_parts

CATEGORIES = [{"id": i + 1, "name": f"c{i}", "isthing": int(i < 2), "color": [i, i, i]} for i in range(5)]
ALL = {"loss_sem_seg", "loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask", "loss_tasc"}
STUFF_FIRST = ("proposal_generator", "roi_heads", "backbone.top_block")


def build(fusion="MaskGuidedFusion"):
    cfg = get_cfg()
    cfg.merge_from_file(config_file("toy/tascnet_r18.yaml"))
    cfg.DATASETS.REGISTER, cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = [], [], ["freeze_test"]
    cfg.MODEL.CATEGORIES = CATEGORIES
    cfg.MODEL.PANOPTIC_FUSION.NAME = fusion
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 8
    cfg.MODEL.FPN.OUT_CHANNELS = cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 16
    torch.manual_seed(0)
    return build_model(cfg).train()


def records(num=2, size=(64, 96)):
    from detectron2.structures import BitMasks, Instances

    generator = torch.Generator().manual_seed(1)
    masks = torch.zeros(1, *size, dtype=torch.bool)
    masks[0, 10:50, 20:70] = True
    sem_seg = torch.where(masks[0], 3, torch.randint(0, 3, size, generator=generator))
    gt = Instances(size, gt_classes=torch.tensor([0]), gt_masks=BitMasks(masks))
    gt.gt_boxes = gt.gt_masks.get_bounding_boxes()
    image = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
    return [{"image": image, "sem_seg": sem_seg, "instances": gt, "height": size[0], "width": size[1]}] * num


def train(model, steps=2):
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=0.01, momentum=0.9, weight_decay=0.1)
    with EventStorage():
        for _ in range(steps):
            losses = model(records())
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
    return losses


@pytest.mark.parametrize(
    "parts, left",
    [
        ((), ALL),
        (("backbone",), ALL),
        (("backbone.bottom_up",), ALL),
        (STUFF_FIRST, {"loss_sem_seg"}),
        (("sem_seg_head",), ALL - {"loss_sem_seg", "loss_tasc"}),
        (("roi_heads.mask_head",), ALL),
    ],
)
def test_frozen_parts_stay_and_the_others_learn(parts, left):
    model = build()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    freeze_parts(model, parts)
    assert set(train(model)) == left
    moved, kept = set(), set()
    for key, value in model.state_dict().items():
        same = torch.equal(value, before[key])
        if any(key.startswith(f"{part}.") for part in parts):
            assert same, key  # also the running statistics of BN
        elif not key.startswith(("pixel_", "proposal_generator.anchor")):
            (kept if same else moved).add(key.split(".")[0])
    assert {"backbone"} <= moved if "backbone" not in parts else True
    heads = {"proposal_generator", "roi_heads", "sem_seg_head"}
    assert {h for h in heads if h not in parts} <= moved


@pytest.mark.parametrize(
    "parts, moving",
    [
        (("fusion",), {"backbone", "proposal_generator", "roi_heads", "sem_seg_head"}),
        (("sem_seg_head", "roi_heads"), {"backbone", "proposal_generator", "fusion"}),
        (("backbone", "proposal_generator", "sem_seg_head", "roi_heads"), {"fusion"}),
    ],
)
def test_a_fusion_with_parameters(parts, moving):
    """Its loss stays as long as it learns itself, whichever head is frozen."""
    model = build("SpatialRankingFusion")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    freeze_parts(model, parts)
    assert ("loss_srm" in train(model)) == ("fusion" not in parts)
    moved = {key.split(".")[0] for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == moving


def test_inference_is_not_affected():
    model = build().eval()
    with torch.no_grad():
        expected = model(records(1))[0]["sem_seg"]
        freeze_parts(model, ["sem_seg_head", "backbone"])
        torch.testing.assert_close(model(records(1))[0]["sem_seg"], expected)


def test_bad_parts_are_named():
    with pytest.raises(ConfigError, match="no parameter belongs to 'semantic_head'.*sem_seg_head"):
        freeze_parts(build(), ["semantic_head"])
    with pytest.raises(ConfigError, match="no head"):
        freeze_parts(build(), ["proposal_generator", "roi_heads", "sem_seg_head"])
    with pytest.raises(ConfigError, match="no head"):
        freeze_parts(build("SpatialRankingFusion"), ["proposal_generator", "roi_heads", "sem_seg_head", "fusion"])


def _worker(rank):
    model = build()
    freeze_parts(model, STUFF_FIRST)
    train(DistributedDataParallel(model, broadcast_buffers=False), steps=3)


def test_two_processes():
    # DDP raises in the second step if a parameter that requires a gradient got none in the first.
    run_in_two_processes(_worker)

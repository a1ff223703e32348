"""The TASC loss against slow loops, its gradient, and which heads of a network it reaches."""

import random

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from panoptic_fusion import config_file, get_cfg
from panoptic_fusion.data.label_space import LabelSpace
from panoptic_fusion.errors import ConfigError
from panoptic_fusion.layers import roi_flatten
from panoptic_fusion.modeling.fusion import FusionTrainingInputs, MaskGuidedFusion
from panoptic_fusion.modeling.fusion.tascnet.tasc_loss import (
    instance_things_mask,
    semantic_things_mask,
    tasc_loss,
    valid_pixel_mask,
)

CATEGORIES = [
    {"id": i + 1, "name": f"c{i}", "isthing": int(i < 2), "color": [i, i, i]} for i in range(5)
]  # 2 things, 3 stuff


def build_fusion(ontology="full", **kwargs):
    return MaskGuidedFusion(
        label_space=LabelSpace.from_categories(CATEGORIES),
        ontology=ontology,
        instances_confidence_thresh=0.5,
        overlap_thresh=0.4,
        stuff_area_limit=0,
        **kwargs,
    )


def random_inputs(seed, ontology="full", dtype=torch.float32, size=(32, 64), num_images=2):
    """FusionTrainingInputs of images of different sizes, one of them maybe without an instance."""
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    channels = {"full": 5, "collapsed": 4}[ontology]
    gt_sem_seg = torch.full((num_images, height, width), 255)
    gt_instances, foreground, sizes = [], [], []
    for i in range(num_images):
        h, w = (height, width) if i == 0 else (rng.randint(1, height), rng.randint(1, width))
        gt_sem_seg[i, :h, :w] = torch.randint(0, channels, (h, w), generator=generator)
        gt_sem_seg[i, : rng.randint(0, 5)] = 255
        gt = Instances((h, w))
        gt.gt_masks = BitMasks(torch.rand(rng.choice([0, 1, 3]), h, w, generator=generator) < 0.4)
        num = rng.choice([0, 1, 4])
        corner = torch.rand(num, 2, generator=generator) * torch.tensor([w, h])
        sides = torch.rand(num, 2, generator=generator) * torch.tensor([width, height])
        boxes = Boxes(torch.cat([corner, corner + sides], 1) - 3)
        logits = 3 * torch.randn(num, 7, 7, generator=generator, dtype=dtype)
        gt_instances.append(gt)
        foreground.append(Instances((h, w), proposal_boxes=boxes, mask_logits=logits.requires_grad_()))
        sizes.append((h, w))
    logits = 4 * torch.randn(num_images, channels, height // 4, width // 4, generator=generator, dtype=dtype)
    return FusionTrainingInputs(logits.requires_grad_(), gt_sem_seg, gt_instances, foreground, sizes, None)


def slow_loss(inputs, num_stuff):
    """The definition, pixel by pixel at a quarter of the size."""
    total, count = 0.0, 0
    for i, logits in enumerate(inputs.sem_seg_logits.detach().double()):
        probabilities = logits.softmax(0)
        boxes = inputs.foreground[i].proposal_boxes.tensor.double() / 4
        masks = inputs.foreground[i].mask_logits.detach().double().sigmoid()
        flat = roi_flatten(masks, boxes, tuple(logits.shape[-2:]))
        gt_masks = inputs.gt_instances[i].gt_masks.tensor
        h, w = inputs.image_sizes[i]
        for y in range(logits.shape[1]):
            for x in range(logits.shape[2]):
                label = int(inputs.gt_sem_seg[i, 4 * y + 2, 4 * x + 2])
                inside = 4 * y + 2 < h and 4 * x + 2 < w
                in_instance = inside and bool(gt_masks[:, 4 * y + 2, 4 * x + 2].any())
                if label == 255 or (label >= num_stuff and not in_instance):
                    continue
                semantic = sum(float(probabilities[c, y, x]) for c in range(num_stuff, len(probabilities)))
                if semantic <= 0.5:
                    semantic = 0.0
                total += (semantic - float(flat[y, x])) ** 2
                count += 1
    return total / max(count, 1)


@pytest.mark.parametrize("ontology", ["full", "collapsed"])
def test_equals_a_loop_over_pixels(ontology):
    fusion = build_fusion(ontology, tasc_loss_weight=3.0)
    values = []
    for seed in range(100):
        inputs = random_inputs(seed, ontology, torch.float64)
        loss = fusion.losses(inputs)["loss_tasc"]
        assert float(loss) == pytest.approx(3 * slow_loss(inputs, 3), abs=1e-6)
        values.append(float(loss))
    assert max(values) > 0.3 and len(set(values)) > 90


def test_hand_computed():
    # Two stuff channels, two things, one row of pixels: a thing, torn between two, stuff, hardly a thing.
    probabilities = torch.tensor(
        [[0.1, 0.1, 0.6, 0.4], [0.0, 0.0, 0.1, 0.2], [0.8, 0.45, 0.2, 0.4], [0.1, 0.45, 0.1, 0.0]]
    )
    logits = probabilities.clamp(min=1e-9).log()[None, :, None]
    mask = semantic_things_mask(logits, num_stuff=2)
    torch.testing.assert_close(mask, torch.tensor([[[0.9, 0.9, 0.0, 0.0]]]))
    valid = torch.tensor([[[True, True, False, True]]])
    loss = tasc_loss(mask, torch.tensor([[[0.6, 0.0, 0.9, 0.9]]]), valid)
    torch.testing.assert_close(loss, torch.tensor((0.3**2 + 0.9**2 + 0.9**2) / 3))


def test_collapsed_is_the_things_channel():
    logits = torch.randn(2, 4, 5, 6)
    things = logits.softmax(1)[:, 3]
    torch.testing.assert_close(semantic_things_mask(logits, 3), torch.where(things > 0.5, things, 0.0))


@pytest.mark.parametrize("stride", [1, 2, 4, 8])
def test_resolutions(stride):
    inputs = random_inputs(5)
    loss = build_fusion(tasc_stride=stride).losses(inputs)["loss_tasc"]
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(inputs.sem_seg_logits.grad).all()
    # The size of the compared masks follows the stride; constant masks give the same loss at all of them.
    logits = torch.zeros(1, 4, 8, 16)
    logits[:, 3] = 5.0
    size = (32 // stride, 64 // stride)
    semantic = semantic_things_mask(logits, 3, size)
    whole = [Boxes(torch.tensor([[0.0, 0.0, 64.0, 32.0]]))]
    instance = instance_things_mask([torch.full((1, 28, 28), 2.0)], whole, size, stride)
    assert semantic.shape == instance.shape == (1, *size)
    things = torch.tensor([0, 0, 0, 5.0]).softmax(0)[3]
    valid = valid_pixel_mask(torch.zeros(1, 32, 64).long(), [_no_things()], num_stuff=3, stride=stride)
    assert valid.shape == (1, *size) and valid.all()
    expected = (things - torch.tensor(2.0).sigmoid()) ** 2
    torch.testing.assert_close(tasc_loss(semantic, instance, valid), expected)


def _no_things(size=(32, 64)):
    return Instances(size, gt_masks=BitMasks(torch.zeros(0, *size, dtype=torch.bool)))


def test_gradcheck():
    fusion, checked = build_fusion(), 0
    for seed in range(100):
        x = random_inputs(seed, "full", torch.float64, size=(16, 16), num_images=1)
        if len(x.foreground[0]) == 0 or _near_a_threshold(x):
            continue

        def loss(logits, mask_logits, x=x):
            boxes = x.foreground[0].proposal_boxes
            foreground = [Instances(x.image_sizes[0], proposal_boxes=boxes, mask_logits=mask_logits)]
            inputs = FusionTrainingInputs(logits, x.gt_sem_seg, x.gt_instances, foreground, x.image_sizes, None)
            return fusion.losses(inputs)["loss_tasc"]

        arguments = (x.sem_seg_logits, x.foreground[0].mask_logits)
        assert torch.autograd.gradcheck(loss, arguments, eps=1e-7, atol=1e-5)
        checked += 1
        if checked == 8:
            return
    raise AssertionError("too few cases")


def _near_a_threshold(inputs):
    semantic = inputs.sem_seg_logits.detach().softmax(1)
    boxes = inputs.foreground[0].proposal_boxes.tensor.double() / 4
    masks = inputs.foreground[0].mask_logits.detach().sigmoid()
    values = [roi_flatten(m[None], b[None], (4, 4), threshold=1e-6) for m, b in zip(masks, boxes, strict=True)]
    return any(bool(((x - 0.5).abs() < 1e-5).any()) for x in (semantic, torch.stack(values)))


def test_no_instance_and_no_ground_truth():
    inputs = random_inputs(0)
    no_boxes, no_masks = Boxes(torch.zeros(0, 4)), torch.zeros(0, 28, 28, requires_grad=True)
    empty = FusionTrainingInputs(
        inputs.sem_seg_logits,
        inputs.gt_sem_seg,
        inputs.gt_instances,
        [Instances(size, proposal_boxes=no_boxes, mask_logits=no_masks) for size in inputs.image_sizes],
        inputs.image_sizes,
        None,
    )
    loss = build_fusion().losses(empty)["loss_tasc"]
    loss.backward()
    assert loss > 0 and empty.sem_seg_logits.grad.abs().sum() > 0
    empty.gt_sem_seg.fill_(255)
    loss = build_fusion().losses(empty)["loss_tasc"]
    loss.backward()
    assert loss == 0


def test_weight_zero_computes_nothing():
    assert build_fusion(tasc_loss_weight=0).losses(None) == {}


def test_crowds_void_and_padding_are_not_compared():
    gt = torch.tensor([[[0, 3, 4, 255, 255], [2, 4, 3, 1, 255]]])  # stuff 0..2, things 3 and 4
    masks = torch.zeros(1, 2, 4, dtype=torch.bool)
    masks[0, 0, 1] = masks[0, 1, 2] = True  # the thing at (0, 2) and that at (1, 1) belong to no instance
    instances = [Instances((2, 4), gt_masks=BitMasks(masks))]
    expected = [[True, True, False, False, False], [True, False, True, True, False]]
    assert valid_pixel_mask(gt, instances, num_stuff=3, stride=1)[0].tolist() == expected


def test_half_precision_logits():
    inputs = random_inputs(1)
    half = inputs.sem_seg_logits.detach().half()
    assert semantic_things_mask(half, 3).dtype == torch.float32


def tiny_cfg(**keys):
    cfg = get_cfg()
    cfg.merge_from_file(config_file("toy/tascnet_r18.yaml"))
    cfg.DATASETS.REGISTER, cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = [], [], ["tasc_loss_test"]
    cfg.MODEL.CATEGORIES = CATEGORIES
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 8
    cfg.MODEL.FPN.OUT_CHANNELS = cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 16
    for key, value in keys.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    return cfg


def example(ontology="full", num_things=2, size=(64, 96)):
    """A training dict: things are boxes, labelled accordingly."""
    generator = torch.Generator().manual_seed(0)
    sem_seg = torch.randint(0, 3, size, generator=generator)
    masks = torch.zeros(num_things, *size, dtype=torch.bool)
    for i in range(num_things):
        masks[i, 10 : 50 - 5 * i, 10 + 40 * i : 45 + 40 * i] = True
        sem_seg[masks[i]] = {"full": 3 + i, "collapsed": 3, "stuff": 255}[ontology]
    return {
        "image": torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8),
        "sem_seg": sem_seg,
        "instances": Instances(
            size,
            gt_boxes=BitMasks(masks).get_bounding_boxes() if num_things else Boxes(torch.zeros(0, 4)),
            gt_classes=torch.arange(num_things),
            gt_masks=BitMasks(masks),
        ),
        "height": size[0],
        "width": size[1],
    }


@pytest.mark.parametrize("ontology", ["full", "collapsed"])
def test_reaches_mask_head_and_stuff_head_and_no_other_head(ontology):
    torch.manual_seed(0)
    model = build_model(tiny_cfg(MODEL__SEM_SEG_HEAD__ONTOLOGY=ontology)).train()
    torch.nn.init.constant_(model.roi_heads.mask_head.predictor.bias, 1.0)  # all masks claim their boxes
    torch.nn.init.constant_(model.sem_seg_head.predictor.bias[3], 3.0)
    with EventStorage():
        losses = model([example(ontology), example(ontology, num_things=0)])
    losses["loss_tasc"].backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    heads = {name for name in reached if not name.startswith("backbone.")}
    assert {name.split(".")[0] for name in heads} == {"roi_heads", "sem_seg_head"}
    assert all(name.startswith(("roi_heads.mask_head.", "sem_seg_head.")) for name in heads)
    assert any("mask_head.predictor" in n for n in heads) and any("mask_head.mask_fcn1" in n for n in heads)
    assert {"sem_seg_head.predictor.weight", "sem_seg_head.levels.p5.0.weight"} <= heads
    assert any(name.startswith("backbone.bottom_up.res5") for name in reached)  # through the two heads


@pytest.mark.parametrize("ontology", ["full", "collapsed", "stuff"])
@pytest.mark.parametrize("num_things", [2, 0])
def test_ontologies_train_and_infer(ontology, num_things):
    torch.manual_seed(0)
    keys = {"MODEL__SEM_SEG_HEAD__ONTOLOGY": ontology, "MODEL__PANOPTIC_FUSION__STUFF_AREA_LIMIT": 1}
    if ontology == "stuff":
        keys["MODEL__PANOPTIC_FUSION__NAME"] = "HeuristicFusion"
    model = build_model(tiny_cfg(**keys)).train()
    assert ("loss_tasc" in _step(model, example(ontology, num_things))) == (ontology != "stuff")
    model.eval()
    with torch.no_grad():
        output = model([example(ontology)])[0]
    assert output["sem_seg"].shape == ({"full": 5, "collapsed": 4, "stuff": 3}[ontology], 64, 96)
    panoptic, segments = output["panoptic_seg"]
    assert sorted(set(panoptic.unique().tolist()) - {0}) == [s["id"] for s in segments]


def _step(model, record):
    with EventStorage():
        losses = model([record, record])
    sum(losses.values()).backward()
    assert all(torch.isfinite(x) for x in losses.values())
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    return losses


def test_stuff_ontology_is_refused():
    with pytest.raises(ConfigError, match="ONTOLOGY is 'stuff'"):
        build_model(tiny_cfg(MODEL__SEM_SEG_HEAD__ONTOLOGY="stuff"))


@pytest.mark.parametrize(
    "key, value, text",
    [
        ("LOSS_WEIGHT", -1.0, "LOSS_WEIGHT is -1"),
        ("STRIDE", 3, "STRIDE is 3"),
        ("AGREEMENT", "overlap", "AGREEMENT is 'overlap'"),
        ("AGREEMENT_THRESH", 1.5, "AGREEMENT_THRESH is 1.5"),
    ],
)
def test_bad_settings_are_named(key, value, text):
    with pytest.raises(ConfigError, match=f"MODEL.PANOPTIC_FUSION.TASC.{text}"):
        build_model(tiny_cfg(**{f"MODEL__PANOPTIC_FUSION__TASC__{key}": value}))

"""UPSNet's panoptic loss: against slow dense loops with a fixed choice of unknown instances; gradients and parts."""

import math
import random

import pytest
import torch
import upsnet_oracle
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from dispatch_counts import LargestTensor
from fusions import CITYSCAPES, COCO, TINY
from fusions import upsnet_fusion as build
from small_networks import example, small_cfg

from panoptic_fusion.layers.chunks import MAX_CHUNK_ELEMENTS
from panoptic_fusion.modeling.fusion import FusionTrainingInputs
from panoptic_fusion.modeling.fusion.upsnet.training import KnownInstances, panoptic_loss, panoptic_targets
from panoptic_fusion.modeling.fusion.upsnet.unknown_channel import sample_known_instances


def random_inputs(seed, counts, num_images=2, size=(32, 48), side=7, dtype=torch.float64):
    """FusionTrainingInputs, the mask logits that its mask head gives, and a choice of known instances."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    num_stuff, num_things = counts
    gt_sem_seg = torch.full((num_images, *size), 255)
    gt_instances, sizes, known = [], [], []
    for i in range(num_images):
        h, w = size if i == 0 else (rng.randint(5, size[0]), rng.randint(5, size[1]))
        blocks = torch.randint(0, num_stuff + num_things, (h // 8 + 1, w // 8 + 1), generator=generator)
        gt_sem_seg[i, :h, :w] = blocks.repeat_interleave(8, 0).repeat_interleave(8, 1)[:h, :w]
        gt_sem_seg[i, : rng.choice([0, 5])] = 255
        num = rng.choice([0, 1, 2, 5, 9])
        masks = torch.zeros(num, h, w, dtype=torch.bool)
        for mask in masks:
            y, x = rng.randrange(h), rng.randrange(w)
            mask[y : y + rng.randint(1, h), x : x + rng.randint(1, w)] = True
            if rng.random() < 0.5:
                mask &= torch.rand(h, w, generator=generator) < 0.7
                mask[y, x] = True
        instances = Instances((h, w), gt_masks=BitMasks(masks))
        instances.gt_boxes = instances.gt_masks.get_bounding_boxes() if num else Boxes(torch.zeros(0, 4))
        if rng.random() < 0.5:  # boxes that annotators drew, and boxes over the border
            instances.gt_boxes.tensor += torch.rand(num, 4, generator=generator) * 4 - 2
        instances.gt_classes = torch.randint(0, num_things, (num,), generator=generator)
        gt_instances.append(instances)
        sizes.append((h, w))
        known.append(torch.randperm(num, generator=generator)[: max(int(0.7 * num), 1)])
    shape = (num_images, num_stuff + num_things, size[0] // 4, size[1] // 4)
    logits = (4 * torch.randn(shape, generator=generator, dtype=dtype)).requires_grad_()
    mask_logits = [
        (3 * torch.randn(len(rows), side, side, generator=generator, dtype=dtype)).requires_grad_() for rows in known
    ]

    def mask_logits_of(boxes, classes):
        for x, rows, b, c in zip(gt_instances, known, boxes, classes, strict=True):
            assert torch.equal(b.tensor, x.gt_boxes.tensor[rows]) and torch.equal(c, x.gt_classes[rows])
        return mask_logits

    inputs = FusionTrainingInputs(logits, gt_sem_seg, gt_instances, [], sizes, mask_logits_of)
    return inputs, mask_logits, known


def slow_loss(inputs, mask_logits, known, counts, unknown):
    """Mean of the images' losses."""
    total = 0
    for i, rows in enumerate(known):
        x = inputs.gt_instances[i]
        total = total + upsnet_oracle.training_loss(
            inputs.sem_seg_logits[i],
            x.gt_boxes.tensor[rows].double().tolist(),
            x.gt_classes[rows].tolist(),
            mask_logits[i],
            inputs.gt_sem_seg[i],
            x.gt_masks.tensor[rows],
            num_stuff=counts[0],
            unknown=unknown,
        )
    return total / len(known)


def gradients(loss, inputs, mask_logits):
    leaves = [inputs.sem_seg_logits, *mask_logits]
    grads = torch.autograd.grad(loss, leaves, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(grads, leaves, strict=True)]


@pytest.mark.parametrize(("counts", "unknown"), [(CITYSCAPES, True), (COCO, True), (TINY, True), (TINY, False)])
def test_loss_and_gradients_equal_slow_loops(counts, unknown):
    fusion = build(*counts, panoptic_loss_weight=0.5, unknown=unknown)
    values, reached = set(), 0
    for seed in range(20 if counts == COCO else 30):
        inputs, mask_logits, known = random_inputs(seed, counts)
        loss = fusion.losses(inputs, known)["loss_panoptic"]
        expected = 0.5 * slow_loss(inputs, mask_logits, known, counts, unknown)
        torch.testing.assert_close(loss, expected, atol=1e-6, rtol=0)
        ours, theirs = gradients(loss, inputs, mask_logits), gradients(expected, inputs, mask_logits)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, atol=1e-7, rtol=0)
        values.add(float(loss))
        reached += sum(int((g.abs().amax((1, 2)) > 1e-4).sum()) for g in ours[1:])
    assert len(values) == (20 if counts == COCO else 30)
    assert reached > 60


def test_gradcheck():
    checked = 0
    for seed in range(4):
        inputs, mask_logits, known = random_inputs(seed, TINY, size=(12, 16), side=3)
        fusion = build(*TINY)

        def loss(logits, *masks, inputs=inputs, known=known, fusion=fusion):
            x = FusionTrainingInputs(
                logits, inputs.gt_sem_seg, inputs.gt_instances, [], inputs.image_sizes, lambda *_: list(masks)
            )
            return fusion.losses(x, known)["loss_panoptic"]

        assert torch.autograd.gradcheck(loss, (inputs.sem_seg_logits, *mask_logits), eps=1e-7, atol=1e-5)
        checked += sum(len(rows) for rows in known)
    assert checked > 5


def test_hand_computed_loss():
    """One stuff class, two things, a map of 1 x 2 pixels; the instance of class 0 has the first pixel."""
    logits = torch.tensor([[[[0.5, 0.25]], [[2.0, 1.0]], [[3.0, 4.0]]]])
    masks = torch.zeros(1, 4, 8, dtype=torch.bool)
    masks[0, :, :4] = True
    instances = Instances((4, 8), gt_boxes=Boxes(torch.tensor([[0.0, 0, 4, 4]])), gt_masks=BitMasks(masks))
    instances.gt_classes = torch.tensor([0])
    gt_sem_seg = torch.full((1, 4, 8), 1)
    gt_sem_seg[:, :, 4:] = 2
    mask_logits = torch.full((1, 28, 28), 1.5)
    inputs = FusionTrainingInputs(logits, gt_sem_seg, [instances], [], [(4, 8)], lambda *_: [mask_logits])
    # The box ends with pixel 3: Y_mask has trunc(3 / 4) = 0, X_mask goes to round(3 / 4) = 1. Stuff, X + Y, unknown:
    first = torch.tensor([0.5, 2.0 + 1.5, 3.0 - 2.0])
    second = torch.tensor([0.25, 1.0 + 0.0, 4.0 - 1.0])
    expected = -(first.log_softmax(0)[1] + second.log_softmax(0)[2]) / 2
    known = [torch.tensor([0])]
    torch.testing.assert_close(build(1, 2).losses(inputs, known)["loss_panoptic"], expected)
    # Ignored pixels count in the mean.
    gt_sem_seg[:, :, 4:] = 255
    expected = -first.log_softmax(0)[1] / 2
    torch.testing.assert_close(build(1, 2).losses(inputs, known)["loss_panoptic"], expected)
    # Without the unknown channel what would be unknown is ignored.
    gt_sem_seg[:, :, 4:] = 2
    expected = -first[:2].log_softmax(0)[1] / 2
    torch.testing.assert_close(build(1, 2, unknown=False).losses(inputs)["loss_panoptic"], expected)


def test_hand_computed_targets():
    v, stuff, unknown = 255, 2, 2
    #                        stuff, thing missed by masks, void, instance 0, 1, 2, void under 0, stuff under 1
    gt = torch.tensor([[[0, 1, 2, v, 3, 3, 2, v, 1]]])
    masks = torch.zeros(3, 1, 9, dtype=torch.bool)
    masks[0, 0, [4, 5, 7]] = True
    masks[1, 0, [5, 8]] = True
    masks[2, 0, [6, 0]] = True

    def targets(known, **kwargs):
        return panoptic_targets(gt, [masks], [torch.tensor(known)], num_stuff=stuff, stride=1, **kwargs)[0, 0].tolist()

    assert targets([0, 1]) == [0, 1, unknown, -1, 3, 4, unknown, 3, 4]  # instance 2 is left out: its stuff pixel stays
    assert targets([1, 0]) == [0, 1, unknown, -1, 4, 4, unknown, 4, 3]  # the later one is on top
    assert targets([0, 1], unknown=False) == [0, 1, -1, -1, 3, 4, -1, 3, 4]
    assert targets([0, 1, 2], unknown=False) == [5, 1, -1, -1, 3, 4, 5, 3, 4]
    empty = panoptic_targets(gt, [masks[:0]], [torch.arange(0)], num_stuff=stuff, stride=1)[0, 0].tolist()
    assert empty == [0, 1, unknown, -1, unknown, unknown, unknown, -1, 1]
    assert gt[0, 0].tolist() == [0, 1, 2, v, 3, 3, 2, v, 1]  # not changed


def test_targets_are_those_of_every_fourth_pixel():
    gt = torch.arange(9 * 12).view(1, 9, 12) % 5
    masks = torch.rand(2, 7, 10) < 0.5
    result = panoptic_targets(gt, [masks], [torch.tensor([1, 0])], num_stuff=3, stride=4)
    assert result.shape == (1, 3, 3)
    for y in range(3):
        for x in range(3):
            inside = 4 * y < 7 and 4 * x < 10
            expected = min(int(gt[0, 4 * y, 4 * x]), 3)
            if inside and masks[1, 4 * y, 4 * x]:
                expected = 4
            if inside and masks[0, 4 * y, 4 * x]:
                expected = 5
            assert result[0, y, x] == expected


def test_images_without_things_and_a_batch_without_any():
    inputs, _, known = random_inputs(3, TINY)
    inputs.gt_instances = [x[:0] for x in inputs.gt_instances]
    calls = []

    def mask_logits_of(boxes, classes):
        calls.append((boxes, classes))
        return [torch.zeros(0, 28, 28, dtype=torch.float16, requires_grad=True) for _ in boxes]

    inputs.mask_logits_of = mask_logits_of
    logits = inputs.sem_seg_logits
    z = torch.cat([logits[:, :2], logits[:, 2:].amax(1, keepdim=True)], 1)  # unknown is the highest thing
    target = inputs.gt_sem_seg[:, ::4, ::4]
    target = torch.where(target == 255, 255, target.clamp(max=2))
    expected = torch.nn.functional.cross_entropy(z, target, ignore_index=255, reduction="sum") / target.numel()
    loss = build().losses(inputs)["loss_panoptic"]
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert torch.isfinite(logits.grad).all() and logits.grad.abs().sum() > 0
    assert [len(b) for b in calls[0][0]] == [0, 0]  # the mask head runs all the same
    inputs.gt_sem_seg.fill_(255)
    assert build().losses(inputs)["loss_panoptic"] == 0


@pytest.mark.parametrize("unknown", [True, False])
def test_without_stuff_classes(unknown):
    fusion = build(0, 2, unknown=unknown)
    for seed in range(10):
        inputs, mask_logits, known = random_inputs(seed, (0, 2))
        loss = fusion.losses(inputs, known)["loss_panoptic"]
        expected = slow_loss(inputs, mask_logits, known, (0, 2), unknown)
        torch.testing.assert_close(loss, expected, atol=1e-6, rtol=0)
        for a, b in zip(gradients(loss, inputs, mask_logits), gradients(expected, inputs, mask_logits), strict=True):
            torch.testing.assert_close(a, b, atol=1e-7, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    inputs, mask_logits, known = random_inputs(0, CITYSCAPES, dtype=torch.float32)
    logits = (inputs.sem_seg_logits.detach() * 2000).to(dtype).requires_grad_()
    masks = [(3 * x.detach()).to(dtype).requires_grad_() for x in mask_logits]

    def loss_of(logits, masks):
        x = FusionTrainingInputs(
            logits, inputs.gt_sem_seg, inputs.gt_instances, [], inputs.image_sizes, lambda *_: masks
        )
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return build(*CITYSCAPES).losses(x, known)["loss_panoptic"]

    loss = loss_of(logits, masks)
    assert loss.dtype == torch.float32 and loss > 100
    torch.testing.assert_close(loss, loss_of(logits.float(), [x.float() for x in masks]))
    loss.backward()
    assert torch.isfinite(logits.grad).all() and all(torch.isfinite(x.grad).all() for x in masks)


@pytest.mark.parametrize(
    ("unknown", "expected"),
    [
        (True, 2 * 500 + 0 + 2 * 1500),  # stuff -500, X + Y -1500, unknown -500 + 500
        (False, 2 * math.log(2) + 2 * (1000 + math.log(2))),
    ],
)
def test_very_low_logits_do_not_overflow(unknown, expected):
    """The box of the one instance is the image, so that no channel has a zero, and all are far below it."""
    logits = torch.full((1, 4, 2, 3), -500.0, requires_grad=True)
    masks = torch.full((1, 7, 7), -1000.0, requires_grad=True)
    instances = KnownInstances(torch.tensor([[0.0, 0, 12, 8]]), torch.tensor([0]), masks)
    targets = torch.tensor([[[0, 1, 2 if unknown else -1], [3, 3, -1]]])
    loss = panoptic_loss(logits, [instances], targets, num_stuff=2, stride=4, unknown=unknown)
    assert float(loss) == pytest.approx(expected / 6)
    loss.backward()
    assert torch.isfinite(logits.grad).all() and torch.isfinite(masks.grad).all()


def test_draws_seven_of_ten():
    counts = {n: len(sample_known_instances(n, 0.3)) for n in (0, 1, 2, 3, 4, 10, 20)}
    assert counts == {0: 0, 1: 1, 2: 1, 3: 2, 4: 2, 10: 7, 20: 14}
    torch.manual_seed(0)
    draws = [sample_known_instances(10, 0.3).tolist() for _ in range(300)]
    assert all(len(set(d)) == 7 for d in draws)
    times = [sum(i in d for d in draws) for i in range(10)]
    assert all(170 < t < 250 for t in times)  # 210 expected
    first = [sum(d[0] == i for d in draws) for i in range(10)]
    assert all(f > 10 for f in first)  # in random order
    torch.manual_seed(0)
    assert sample_known_instances(10, 0.3).tolist() == draws[0]
    assert sorted(sample_known_instances(5, 0.0).tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("fraction", "num_instances", "known"),
    [(0.3, 4, 2), (0.3, 5, 3), (0.3, 7, 4), (0.3, 8, 5), (0.3, 9, 6), (0.5, 3, 1), (0.5, 7, 3), (0.25, 5, 3)],
)
def test_the_number_that_stays_is_rounded_down(fraction, num_instances, known):
    """Also where it would round up: 2.8, 3.5, 4.9, 5.6, 6.3, 1.5, 3.5 and 3.75."""
    assert len(sample_known_instances(num_instances, fraction)) == known


def test_without_a_choice_instances_are_drawn():
    inputs, _, _ = random_inputs(1, TINY, num_images=5)
    numbers = []

    def mask_logits_of(boxes, classes):
        numbers.append([len(b) for b in boxes])
        return [torch.zeros(len(b), 7, 7) for b in boxes]

    inputs.mask_logits_of = mask_logits_of
    build().losses(inputs)
    build(unknown_fraction=0.0).losses(inputs)
    build(unknown=False).losses(inputs)
    every = [len(x) for x in inputs.gt_instances]
    assert max(every) > 1 and numbers == [[max(int(0.7 * n), min(n, 1)) for n in every], every, every]


def test_weight_zero_computes_nothing():
    assert build(panoptic_loss_weight=0).losses(None) == {}


def test_no_maps_of_all_instances(monkeypatch):
    """200 small boxes: no tensor comes near 200 maps."""
    generator = torch.Generator().manual_seed(0)
    num, size = 200, (128, 192)
    corner = torch.rand(num, 2, generator=generator) * torch.tensor([180.0, 116.0])
    boxes = torch.cat([corner, corner + 12], 1)
    logits = torch.randn(1, 4, 32, 48, generator=generator, requires_grad=True)
    instances = KnownInstances(boxes, torch.zeros(num, dtype=torch.int64), torch.randn(num, 28, 28, requires_grad=True))
    targets = torch.randint(-1, 200, (1, 32, 48), generator=generator)
    with LargestTensor() as largest:
        panoptic_loss(logits, [instances], targets, num_stuff=2, stride=4, unknown=True).backward()
    assert largest.numel <= num * 30 * 30 < num * size[0] * size[1] // 16
    # The targets: of the masks there are no more than 8 maps at a time either, at no size.
    monkeypatch.setitem(MAX_CHUNK_ELEMENTS, "cpu", 8 * 32 * 48)
    masks = (torch.arange(size[1]) // 12 == torch.arange(num)[:, None])[:, None].expand(num, *size)
    known = torch.randperm(num, generator=generator)
    labels = torch.randint(0, 4, (1, *size), generator=generator)
    with LargestTensor(views=False) as largest:
        found = panoptic_targets(labels, [masks], [known], num_stuff=2, stride=4)
    assert largest.numel <= 8 * 32 * 48 < num * 32 * 48 // 10
    place = known.argsort()[:16]  # columns 12 i .. 12 i + 11 are of mask i, whose channel is its place in `known`
    assert torch.equal(found[0], (3 + place).repeat_interleave(3).expand(32, 48))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("unknown", [True, False])
def test_on_cuda_equals_cpu(unknown):
    fusion = build(*CITYSCAPES, unknown=unknown)
    for seed in range(10):
        inputs, mask_logits, known = random_inputs(seed, CITYSCAPES, dtype=torch.float32)
        loss = fusion.losses(inputs, known)["loss_panoptic"]
        expected = gradients(loss, inputs, mask_logits)
        masks = [x.detach().to("cuda").requires_grad_() for x in mask_logits]
        moved = FusionTrainingInputs(
            inputs.sem_seg_logits.detach().to("cuda").requires_grad_(), inputs.gt_sem_seg.to("cuda"),
            [x.to("cuda") for x in inputs.gt_instances], [], inputs.image_sizes, lambda *_, masks=masks: masks,
        )  # fmt: skip
        found = fusion.losses(moved, known)["loss_panoptic"]
        torch.testing.assert_close(found.cpu(), loss, atol=1e-5, rtol=1e-5)
        for a, b in zip(gradients(found, moved, masks), expected, strict=True):
            torch.testing.assert_close(a.cpu(), b, atol=1e-5, rtol=1e-4)


def test_reaches_mask_head_and_stuff_head_and_no_other_head():
    torch.manual_seed(0)
    model = build_model(small_cfg(MODEL__PANOPTIC_FUSION__NAME="UPSNetFusion")).train()
    with EventStorage():
        losses = model([example(1), example(2, num_things=0)])
    losses["loss_panoptic"].backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    heads = {name for name in reached if not name.startswith("backbone.")}
    assert all(name.startswith(("roi_heads.mask_head.", "sem_seg_head.")) for name in heads)
    assert {"roi_heads.mask_head.predictor.weight", "roi_heads.mask_head.mask_fcn1.weight"} <= heads
    assert "sem_seg_head.predictor.weight" in heads and any(n.startswith("backbone.bottom_up.res5") for n in reached)

"""UPSNetFusion at inference: against slow loops on 300 random cases, hand-computed cases, thresholds, precision."""

import random

import pytest
import torch
import upsnet_oracle
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from dispatch_counts import CountReads, LargestTensor
from fusions import CITYSCAPES, COCO, TINY
from fusions import upsnet_fusion as build
from small_networks import example, small_cfg

from panoptic_fusion.errors import ConfigError
from panoptic_fusion.modeling.fusion import SemSegLogits, sem_seg_logits


def instances_of(size, boxes, scores, classes, masks):
    fields = {"pred_mask_logits" if masks.dtype.is_floating_point else "pred_masks": masks}
    return Instances(
        size,
        pred_boxes=Boxes(torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
        scores=torch.as_tensor(scores, dtype=torch.float32),
        pred_classes=torch.as_tensor(classes, dtype=torch.int64),
        **fields,
    )


def at_stride_1(logits):
    return SemSegLogits(logits, *[tuple(logits.shape[1:])] * 3)


def random_case(seed, counts):
    """A fusion, SemSegLogits and Instances. Numbers are coarse, so that ties happen and rounding does not."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    num_stuff, num_things = counts
    stride = rng.choice([1, 2, 4])
    h, w = rng.randint(2, 24) // stride + 1, rng.randint(2, 32) // stride + 1
    size = (h * stride, w * stride)
    step = rng.choice([1.0, 2.0**-4])  # of the logits: with 1 there are ties everywhere
    logits = (2 * torch.randn(num_stuff + num_things, h, w, generator=generator) / step).round() * step
    logits += rng.choice([0.0, 0.0, -4.0])  # all negative: zeros outside of boxes win
    num = rng.choice([0, 1, 2, 3, 6, 12])
    side = rng.choice([1, 4, 7])
    boxes, masks, pasted = [], torch.zeros(num, side, side), []
    for i in range(num):
        if boxes and rng.random() < 0.3:  # close to another one, or the same
            x0, y0, x1, y1 = (v + rng.choice([0, 0.5, 1, 2]) * rng.choice([-1, 1]) for v in rng.choice(boxes))
        else:
            x0, y0 = rng.uniform(-3, size[1]), rng.uniform(-3, size[0])
            x1, y1 = x0 + rng.uniform(0.5, size[1] * 0.7), y0 + rng.uniform(0.5, size[0] * 0.7)
        box = [x0, y0, max(x1, x0 + 0.25), max(y1, y0 + 0.25)]
        if rng.random() < 0.6:  # whole and half pixels, clipped to the image, as most boxes are
            box = [min(max(round(2 * v) / 2, 0), side) for v, side in zip(box, (size[1], size[0]) * 2, strict=True)]
            if box[0] >= box[2] or box[1] >= box[3]:
                box = [0, 0, *reversed(size)]
        boxes.append([float(torch.tensor(v)) for v in box])
        if rng.random() < 0.4:
            masks[i] = rng.choice([-5, -1, 0, 1, 1, 3, 6])
        else:
            masks[i] = 3 * torch.randn(side, side, generator=generator) + rng.choice([-6, 0, 0, 4])
        pasted.append(masks[i])
    scores = [float(torch.tensor(rng.choice([0.3, 0.6, 0.61, 0.7, 0.8, 0.9, rng.random()]))) for _ in range(num)]
    classes = [rng.randrange(min(num_things, rng.choice([1, 3, 100]))) for _ in range(num)]
    fusion = build(
        num_stuff, num_things, limit=rng.choice([0, 1, 8, 60]), overlap=rng.choice([0.3, 0.3, 0.0, 0.6, 1.0]),
        confidence=rng.choice([0.6, 0.6, 0.0, 1.0]), unknown=rng.random() < 0.75,
    )  # fmt: skip
    return fusion, SemSegLogits(logits, size, size, size), instances_of(size, boxes, scores, classes, masks)


def slow(fusion, sem_seg, instances):
    return upsnet_oracle.infer(
        sem_seg.full().double().tolist(),
        instances.pred_boxes.tensor.double().tolist(),
        instances.scores.double().tolist(),
        instances.pred_classes.tolist(),
        instances.pred_mask_logits.double().tolist(),
        num_stuff=fusion.label_space.num_stuff,
        score_thresh=float(torch.tensor(fusion.instances_confidence_thresh)),
        overlap_thresh=fusion.overlap_thresh,
        stuff_area_limit=fusion.stuff_area_limit,
        unknown=fusion.unknown,
    )


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("counts", [CITYSCAPES, COCO, TINY])
def test_equals_slow_loops(counts, monkeypatch):
    seen = {"void": 0, "thing": 0, "empty": 0, "no thing": 0}
    for seed in range(100):
        monkeypatch.setitem(sem_seg_logits.MAX_STRIP_ELEMENTS, "cpu", random.Random(seed).choice([1, 5000, 2**20]))
        fusion, sem_seg, instances = random_case(seed, counts)
        panoptic, segments = fusion(sem_seg, instances)
        expected_map, expected_segments = slow(fusion, sem_seg, instances)
        assert panoptic.dtype == torch.int32
        assert panoptic.tolist() == expected_map, seed
        assert segments == expected_segments, seed
        for ours, theirs in zip(segments, expected_segments, strict=True):
            assert [type(v) for v in ours.values()] == [type(v) for v in theirs.values()]
        things = [s for s in segments if s["isthing"]]
        seen["void"] += bool((panoptic == 0).any())
        seen["thing"] += bool(things)
        seen["empty"] += len(instances) == 0
        seen["no thing"] += len(instances) > 0 and not things
    assert seen["void"] > 20 and seen["thing"] > 20 and seen["empty"] > 5 and seen["no thing"] > 5, seen


@pytest.mark.usefixtures("implementation")
def test_hundreds_of_instances():
    """Only the best 100 take part; the others' places go to stuff."""
    generator = torch.Generator().manual_seed(0)
    size = (40, 48)
    boxes = [[4.0 * x, 4.0 * y, 4.0 * x + 4, 4.0 * y + 4] for y in range(10) for x in range(12)]
    logits = torch.randn(4, *size, generator=generator).mul(16).round() / 16
    logits[0], logits[2] = 5.0, 6.0  # above all zeros; semantically things
    instances = instances_of(
        size, boxes, 0.61 + 0.3 * torch.rand(120, generator=generator), [i % 2 for i in range(120)],
        torch.full((120, 7, 7), 9.0),
    )  # fmt: skip
    fusion = build(unknown=False)
    panoptic, segments = fusion(at_stride_1(logits), instances)
    assert (panoptic.tolist(), segments) == slow(fusion, at_stride_1(logits), instances)
    rows = [s["instance_id"] for s in segments if s["isthing"]]
    assert rows == instances.scores.argsort(descending=True)[:100].tolist()


# In the hand-computed cases the channels are stuff 0, stuff 1, thing 0, thing 1, on one row of pixels.


def fuse(logits, boxes=(), scores=(), classes=(), masks=(), **kwargs):
    """Fuses an image of one row, logits (4, W); a mask is one logit. Returns what each pixel is: "s0", "i2" or "-"."""
    logits = torch.tensor(logits, dtype=torch.float32)[:, None]
    masks = torch.tensor(masks, dtype=torch.float32).view(-1, 1, 1)
    size = tuple(logits.shape[1:])
    boxes = [[x0, 0, x1, 1] for x0, x1 in boxes]
    panoptic, segments = build(**kwargs)(at_stride_1(logits), instances_of(size, boxes, scores, classes, masks))
    names = {s["id"]: f"i{s['instance_id']}" if s["isthing"] else f"s{s['category_id']}" for s in segments}
    return [names.get(int(i), "-") for i in panoptic[0]]


@pytest.mark.usefixtures("implementation")
def test_a_missed_thing_is_unknown():
    logits = [[1, 3, 1], [0, 0, 2], [2, 2, 0], [0, 0, 0]]
    assert fuse(logits) == ["-", "s0", "s1"]
    assert fuse(logits, unknown=False) == ["s0", "s0", "s1"]
    # An instance of that class takes the pixel: X + Y = 2 + 4; unknown is 2 - 2 there.
    assert fuse(logits, [(0, 1)], [0.9], [0], [4]) == ["i0", "s0", "s1"]
    # One of the other class does not explain it: unknown is 2 - 0 against X + Y = 0 + 1.5.
    assert fuse(logits, [(0, 1)], [0.9], [1], [1.5]) == ["-", "s0", "s1"]
    # Pruned (its mask is nowhere positive): as if it were not there, not X without Y.
    assert fuse(logits, [(0, 1)], [0.9], [0], [-1]) == ["-", "s0", "s1"]


@pytest.mark.usefixtures("implementation")
def test_outside_of_its_box_an_instance_has_the_logit_zero():
    logits = [[-3, 3, -3], [-4, -2, -4], [-1, -3, -1], [-2, -4, -2]]
    # The third pixel: stuff has -3, the instance 0, unknown -1 - 0.
    assert fuse(logits, [(0, 1)], [0.9], [0], [4]) == ["i0", "s0", "i0"]
    # Two instances: of two zeros the first wins; where the first has less than 0 in its box, the second one's 0 does.
    result = fuse(logits, [(0, 1), (1, 2)], [0.9, 0.8], [0, 1], [0.5, 1])
    assert result == ["i1", "s0", "i0"]
    # Where the boxes of all instances are, there is no zero: X + Y is -1 + 0.5, unknown -1 + 1.
    assert fuse(logits, [(0, 3)], [0.9], [0], [0.5]) == ["-", "s0", "-"]


@pytest.mark.usefixtures("implementation")
def test_ties_go_to_stuff_then_to_the_higher_score():
    # Stuff 0, stuff 1 and both instances have 2, 2, 2, 0; 0, 0, 2, 2; 0, 0, 0, 1.5.
    logits = [[2, 0, 0], [2, 0, 0], [1, 1, 0.5], [1, 1, 0.5]]
    boxes = [(0, 2), (1, 3)]
    assert fuse(logits, boxes, [0.7, 0.8], [0, 1], [1, 1], unknown=False) == ["s0", "i1", "i1"]


def test_the_stuff_majority_takes_an_instance():
    # Its four pixels are semantically s1, s1, thing 0, thing 1: half of them are stuff.
    logits = [[0, 0, 0, 0, 5], [3, 3, 0, 0, 0], [1, 1, 3, 0, 0], [0, 0, 0, 3, 0]]
    assert fuse(logits, [(0, 4)], [0.9], [0], [9]) == ["s1", "s1", "s1", "s1", "s0"]
    logits[1][1] = 0  # a quarter
    assert fuse(logits, [(0, 4)], [0.9], [0], [9]) == ["i0", "i0", "i0", "i0", "s0"]


def test_stuff_area_limit_counts_the_instances_that_became_stuff():
    logits = [[5, 0, 0, 0], [0, 3, 3, 5], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert fuse(logits, [(1, 3)], [0.9], [0], [9], limit=3) == ["-", "s1", "s1", "s1"]
    assert fuse(logits, [(1, 3)], [0.9], [0], [9], limit=4) == ["-", "-", "-", "-"]


@pytest.mark.parametrize("label", [0, 2])
def test_the_stuff_majority_counts_resized_labels(label):
    """The semantic labels of an instance's pixels are x, s1, x, s1, with x a thing or s0; half the width has x, x."""
    logits = torch.zeros(4, 1, 4)
    logits[label, 0, ::2] = 3
    logits[1, 0, 1::2] = 3
    instances = instances_of((1, 4), [[0, 0, 4, 1]], [0.9], [0], torch.full((1, 1, 1), 9.0))
    _, segments = build()(at_stride_1(logits), instances)
    expected = 1 if label else 0  # half of the pixels are s1; of two modes the lower one
    assert [(s["isthing"], s["category_id"], s["area"]) for s in segments] == [(False, expected, 4)]
    panoptic, segments = build()(at_stride_1(logits), instances, (1, 2))
    assert [(s["isthing"], s["category_id"], s["area"]) for s in segments] == [(label == 2, 0, 2)]
    assert panoptic.tolist() == [[1, 1]]
    panoptic, segments = build(limit=3)(at_stride_1(logits), instances, (1, 2))
    assert panoptic.tolist() == ([[1, 1]] if label else [[0, 0]]) and len(segments) == (label == 2)


@pytest.mark.usefixtures("implementation")
def test_thresholds():
    logits = [[0] * 6, [0] * 6, [2] * 6, [2] * 6]
    # The score must be above the threshold.
    assert fuse(logits, [(0, 2)], [0.6], [0], [5], unknown=False) == ["s0"] * 6
    assert fuse(logits, [(0, 2)], [0.61], [0], [5], unknown=False) == ["i0", "i0", "s0", "s0", "s0", "s0"]
    # Boxes of different classes: an IoU of 0.5 is not suppressed, one of 3/5 is.
    result = fuse(logits, [(0, 2), (0, 4)], [0.7, 0.8], [0, 1], [6, 5], unknown=False)
    assert result == ["i0", "i0", "i1", "i1", "s0", "s0"]
    result = fuse(logits, [(0, 3), (0, 5)], [0.7, 0.8], [0, 1], [6, 5], unknown=False)
    assert result == ["i1"] * 5 + ["s0"]


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize(("covered", "kept"), [(3, True), (4, False)])
def test_pruning_is_by_class_and_drops_above_the_threshold(covered, kept):
    logits = [[0] * 20, [0] * 20, [2] * 20, [2] * 20]
    boxes = [(0, 10), (10 - covered, 20 - covered)]
    expected = ["i0"] * 10 + ["i1"] * (10 - covered) + ["s0"] * covered
    assert fuse(logits, boxes, [0.9, 0.8], [0, 1], [5, 4], unknown=False) == expected
    if not kept:
        expected = ["i0"] * 10 + ["s0"] * 10
    assert fuse(logits, boxes, [0.9, 0.8], [0, 0], [5, 4], unknown=False) == expected


@pytest.mark.usefixtures("implementation")
def test_bit_masks_are_logits_of_ten():
    masks = torch.zeros(2, 4, 6, dtype=torch.bool)
    masks[0, 1:3, 1:4] = True
    masks[1, 2:4, 3:6] = True
    boxes = [[1, 1, 4, 3], [3, 2, 6, 4]]
    logits = torch.rand(4, 4, 6, generator=torch.Generator().manual_seed(0))
    logits[2] += 1  # semantically a thing everywhere
    sem_seg = at_stride_1(logits)
    fused = build()(sem_seg, instances_of((4, 6), boxes, [0.9, 0.8], [0, 1], masks))
    full = instances_of((4, 6), boxes, [0.9, 0.8], [0, 1], torch.full((2, 14, 14), 10.0))
    assert torch.equal(fused[0], build()(sem_seg, full)[0])  # the masks fill their boxes
    assert [s["instance_id"] for s in fused[1] if s["isthing"]] == [0, 1]
    # With holes: a mask that an instance lacks inside of its box is worth -10.
    masks[0, 1, 1] = False
    fused, segments = build(unknown=False)(sem_seg, instances_of((4, 6), boxes[:1], [0.9], [0], masks[:1]))
    assert segments[0]["instance_id"] == 0 and torch.equal(fused == 1, masks[0])
    # The instances that are used are found in the order of the masks.
    swapped = instances_of((4, 6), boxes[::-1], [0.5, 0.9], [1, 0], masks.flip(0))
    fused, segments = build(unknown=False)(sem_seg, swapped)
    assert segments[0]["instance_id"] == 1 and torch.equal(fused == 1, masks[0])


def test_masks_are_needed_and_must_fit():
    instances = instances_of((4, 6), [[0, 0, 2, 2]], [0.9], [0], torch.ones(1, 7, 7))
    with pytest.raises(ValueError, match="do not fit"):
        build()(at_stride_1(torch.zeros(4, 5, 6)), instances)
    instances.remove("pred_mask_logits")
    with pytest.raises(ValueError, match="needs masks"):
        build()(at_stride_1(torch.zeros(4, 4, 6)), instances)


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("unknown", [True, False])
@pytest.mark.parametrize("num_stuff", [0, 2])
def test_no_stuff_class_and_no_instance(unknown, num_stuff, monkeypatch):
    checked = 0
    for seed in range(60):
        strip = 1 if seed % 2 else 10**6  # row by row, or all rows at once
        monkeypatch.setitem(sem_seg_logits.MAX_STRIP_ELEMENTS, "cpu", strip)
        _, sem_seg, instances = random_case(seed, (num_stuff, 2))
        fusion = build(num_stuff, 2, unknown=unknown)
        panoptic, segments = fusion(sem_seg, instances)
        assert (panoptic.tolist(), segments) == slow(fusion, sem_seg, instances)
        panoptic, segments = fusion(sem_seg, instances[:0])
        assert (panoptic.tolist(), segments) == slow(fusion, sem_seg, instances[:0])
        checked += bool(len(instances))
        if num_stuff == 0:
            assert not segments and not panoptic.any()
    assert checked > 30


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    for seed in range(20):
        fusion, sem_seg, instances = random_case(seed, CITYSCAPES)
        logits = (sem_seg.logits * 3000).to(dtype)
        instances.pred_mask_logits = (instances.pred_mask_logits * 3000).to(dtype)
        half = SemSegLogits(logits, *[sem_seg.output_size] * 3)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            panoptic, segments = fusion(half, instances)
        instances.pred_mask_logits = instances.pred_mask_logits.float()
        expected = fusion(SemSegLogits(logits.float(), *[sem_seg.output_size] * 3), instances)
        assert torch.equal(panoptic, expected[0]) and segments == expected[1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_cuda_equals_cpu():
    """But for a pixel here and there whose two best logits are equal up to rounding."""
    different = total = 0
    for seed in range(60):
        fusion, sem_seg, instances = random_case(seed, CITYSCAPES)
        on_cuda = SemSegLogits(sem_seg.logits.to("cuda"), *[sem_seg.output_size] * 3)
        labels = []
        for panoptic, segments in (fusion(sem_seg, instances), fusion(on_cuda, instances.to("cuda"))):
            assert panoptic.device == (sem_seg, on_cuda)[len(labels)].logits.device
            names = [-1] * (len(segments) + 1)
            for s in segments:
                names[s["id"]] = 100 + s["instance_id"] if s["isthing"] else s["category_id"]
            labels.append(torch.tensor(names)[panoptic.cpu().long()])
        different += int((labels[0] != labels[1]).sum())
        total += labels[0].numel()
    assert different < total / 200


def test_reads_on_the_host_do_not_grow_with_the_instances():
    def reads(num):
        generator = torch.Generator().manual_seed(0)
        corner = torch.rand(num, 2, generator=generator) * 28
        boxes = torch.cat([corner, corner + 4], 1)
        masks = torch.full((num, 7, 7), 4.0)
        instances = instances_of((32, 32), boxes, torch.rand(num, generator=generator), [0] * num, masks)
        with CountReads() as count:
            build()(at_stride_1(torch.randn(4, 32, 32, generator=generator)), instances)
        return count.number

    assert reads(3) == reads(90)


def test_no_maps_of_all_channels(monkeypatch):
    """19 channels and 100 small instances on 256 x 256 pixels: nothing is much larger than one map."""
    monkeypatch.setitem(sem_seg_logits.MAX_STRIP_ELEMENTS, "cpu", 2**16)
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(100, 2, generator=generator) * 240
    boxes = torch.cat([corner, corner + 16], 1)
    instances = instances_of((256, 256), boxes, torch.full((100,), 0.9), [0] * 100, torch.full((100, 28, 28), 4.0))
    logits = torch.randn(19, 64, 64, generator=generator)
    with LargestTensor() as largest:
        build(11, 8)(SemSegLogits(logits, (256, 256), (256, 256), (256, 256)), instances)
    assert largest.numel < 1.5 * 256 * 256


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"panoptic_loss_weight": -1.0}, "LOSS_WEIGHT is -1"),
        ({"unknown_fraction": 1.0}, "UNKNOWN_FRACTION is 1"),
        ({"unknown_fraction": -0.1}, "UNKNOWN_FRACTION is -0.1"),
        ({"ontology": "collapsed"}, "ONTOLOGY is 'collapsed'"),
        ({"ontology": "stuff"}, "ONTOLOGY is 'stuff'"),
    ],
)
def test_bad_settings_are_named(keys, text):
    with pytest.raises(ConfigError, match=text):
        build(**keys)


@pytest.mark.parametrize("at_input_resolution", [True, False])
def test_in_a_model(at_input_resolution):
    torch.manual_seed(0)
    cfg = small_cfg(
        MODEL__PANOPTIC_FUSION__NAME="UPSNetFusion",
        MODEL__PANOPTIC_FUSION__AT_INPUT_RESOLUTION=at_input_resolution,
        MODEL__PANOPTIC_FUSION__UPSNET__UNKNOWN=False,
        MODEL__PANOPTIC_FUSION__UPSNET__UNKNOWN_FRACTION=0.5,
        MODEL__PANOPTIC_FUSION__UPSNET__LOSS_WEIGHT=0.25,
    )
    model = build_model(cfg).eval()
    assert (model.fusion.unknown, model.fusion.unknown_fraction, model.fusion.panoptic_loss_weight) == (
        False, 0.5, 0.25,
    )  # fmt: skip
    assert not list(model.fusion.parameters())
    with torch.no_grad():
        panoptic, segments = model([{"image": example(3)["image"], "height": 100, "width": 130}])[0]["panoptic_seg"]
    assert panoptic.shape == (100, 130) and panoptic.dtype == torch.int32
    assert [s["area"] for s in segments] == [int((panoptic == s["id"]).sum()) for s in segments]
    assert (panoptic > 0).all()  # there is no unknown and no area limit

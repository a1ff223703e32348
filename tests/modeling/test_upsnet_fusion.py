"""UPSNetFusion at inference: against slow loops on 300 random cases, hand-computed cases, thresholds, precision."""

import random

import pytest
import torch
import upsnet_oracle
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from test_mask_guided_fusion import _CountReads
from test_meta_arch import example, small_cfg

from panoptic_fusion.data.label_space import LabelSpace
from panoptic_fusion.errors import ConfigError
from panoptic_fusion.modeling.fusion import SemSegLogits, UPSNetFusion, sem_seg_logits

COCO, CITYSCAPES, TINY = (53, 80), (11, 8), (2, 2)  # S, T


def build(num_stuff=2, num_things=2, limit=0, confidence=0.6, overlap=0.3, **kwargs):
    categories = [
        {"id": i + 1, "name": f"c{i}", "isthing": int(i < num_things), "color": [i % 256, i // 256, 1]}
        for i in range(num_things + num_stuff)
    ]
    kwargs.setdefault("ontology", "full")
    return UPSNetFusion(
        label_space=LabelSpace.from_categories(categories),
        instances_confidence_thresh=confidence,
        overlap_thresh=overlap,
        stuff_area_limit=limit,
        **kwargs,
    )


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


@pytest.mark.parametrize("counts", [CITYSCAPES, COCO, TINY])
def test_equals_slow_loops(counts, monkeypatch):
    seen = {"void": 0, "thing": 0, "became stuff": 0, "empty": 0, "all dropped": 0, "elsewhere": 0}
    for seed in range(100):
        monkeypatch.setitem(sem_seg_logits.MAX_STRIP_ELEMENTS, "cpu", random.Random(seed).choice([1, 5000, 2**20]))
        fusion, sem_seg, instances = random_case(seed, counts)
        panoptic, segments = fusion(sem_seg, instances)
        expected_map, expected_segments = slow(fusion, sem_seg, instances)
        assert panoptic.dtype == torch.int32
        assert panoptic.tolist() == expected_map, seed
        assert segments == expected_segments, seed
        assert [type(v) for s in segments for v in s.values()] == [
            type(v) for s in expected_segments for v in s.values()
        ]
        things = [s for s in segments if s["isthing"]]
        seen["void"] += bool((panoptic == 0).any())
        seen["thing"] += bool(things)
        seen["empty"] += len(instances) == 0
        seen["all dropped"] += len(instances) > 0 and not things
    assert seen["void"] > 20 and seen["thing"] > 20 and seen["empty"] > 5 and seen["all dropped"] > 5, seen

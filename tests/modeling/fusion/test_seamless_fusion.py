"""SeamlessFusion against a statement of section 3.5 in loops over pixels."""

import random

import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances

from panoptic_fusion.data.label_space import LabelSpace
from panoptic_fusion.modeling.fusion import SeamlessFusion, SemSegLogits


def build(num_things=2, num_stuff=3, ontology="full", confidence=0.5, overlap=0.5, limit=20):
    categories = [
        {"id": i + 1, "name": f"c{i}", "isthing": int(i < num_things), "color": [i, i, i]}
        for i in range(num_things + num_stuff)
    ]
    return SeamlessFusion(
        label_space=LabelSpace.from_categories(categories),
        ontology=ontology,
        instances_confidence_thresh=confidence,
        overlap_thresh=overlap,
        stuff_area_limit=limit,
    )


def make_instances(masks, scores, classes):
    return Instances(
        tuple(masks.shape[1:]),
        pred_boxes=BitMasks(masks).get_bounding_boxes() if len(masks) else Boxes(torch.zeros(0, 4)),
        scores=torch.tensor(scores, dtype=torch.float32),
        pred_classes=torch.tensor(classes, dtype=torch.int64),
        pred_masks=masks,
    )


def sem_seg_of(labels, channels):
    """Logits at stride 1 whose argmax is `labels`."""
    logits = torch.nn.functional.one_hot(labels, channels).permute(2, 0, 1).float()
    size = tuple(labels.shape)
    return SemSegLogits(logits, size, size, size)


def slow_fusion(masks, scores, classes, labels, num_stuff, confidence, overlap, limit):
    """{segment: set of pixels}; a thing segment is ("thing", row, class), a stuff segment ("stuff", class)."""
    height, width = labels.shape
    free = {(y, x) for y in range(height) for x in range(width)}
    segments = {}
    for row in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        if not scores[row] > confidence:
            continue
        pixels = {(y, x) for y in range(height) for x in range(width) if masks[row][y][x]}
        if not pixels or len(pixels - free) / len(pixels) > overlap:
            continue
        if pixels & free:
            segments[("thing", row, classes[row])] = pixels & free
        free -= pixels
    for stuff in range(num_stuff):
        pixels = {(y, x) for y, x in free if labels[y][x] == stuff}
        if pixels and len(pixels) >= limit:
            segments[("stuff", stuff)] = pixels
    return segments


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("ontology", ["full", "collapsed"])
def test_equals_slow_loops(ontology):
    rng = random.Random(ontology)
    kinds = {"thing": 0, "stuff": 0}
    dropped = 0
    for _ in range(250):
        num_things, num_stuff = rng.choice([(2, 3), (1, 1), (3, 0), (1, 4)])
        confidence, overlap = rng.choice([0.0, 0.5, 0.75]), rng.choice([0.0, 0.25, 0.5, 0.9])
        limit = rng.choice([0, 1, 8, 30])
        fusion = build(num_things, num_stuff, ontology, confidence, overlap, limit)
        size = (rng.randint(1, 14), rng.randint(1, 14))
        num = rng.choice([0, 1, 3, 8])
        masks = torch.zeros(num, *size, dtype=torch.bool)
        for mask in masks:
            y0, x0 = rng.randrange(size[0]), rng.randrange(size[1])
            mask[y0 : y0 + rng.randint(0, size[0]), x0 : x0 + rng.randint(0, size[1])] = True
        scores = [rng.choice([0.25, 0.5, 0.75, round(rng.random() * 64) / 64]) for _ in range(num)]
        classes = [rng.randrange(num_things) for _ in range(num)]
        channels = fusion.label_space.num_channels(ontology)
        labels = torch.tensor([[rng.randrange(channels) for _ in range(size[1])] for _ in range(size[0])])
        panoptic_map, info = fusion(sem_seg_of(labels, channels), make_instances(masks, scores, classes))
        expected = slow_fusion(masks.tolist(), scores, classes, labels, num_stuff, confidence, overlap, limit)
        found = {}
        for segment in info:
            ys, xs = (panoptic_map == segment["id"]).nonzero(as_tuple=True)
            pixels = set(zip(ys.tolist(), xs.tolist(), strict=True))
            assert segment["area"] == len(pixels)
            key = ("stuff", segment["category_id"])
            if segment["isthing"]:
                key = ("thing", segment["instance_id"], segment["category_id"])
                assert segment["score"] == scores[segment["instance_id"]]
            found[key] = pixels
            kinds[key[0]] += 1
        assert found == expected
        assert int((panoptic_map > 0).sum()) == sum(len(p) for p in expected.values())
        dropped += sum(s > confidence for s in scores) - sum(k[0] == "thing" for k in expected)
    assert min(kinds.values()) > 150 and dropped > 100


@pytest.mark.usefixtures("implementation")
def test_by_hand():
    """4 x 8: the second instance keeps exactly half of its pixels, the third less; the score .5 is not above .5."""
    masks = torch.zeros(4, 4, 8, dtype=torch.bool)
    masks[0, :, :2] = True  # 8 pixels, .9
    masks[1, :, 1:3] = True  # 8 pixels, half of them free
    masks[2, :, 2:4][:3] = True  # 6 pixels, 3 of them free
    masks[2, 3, 2] = True  # and one more that is not: 3 of 7
    masks[3, :, 6:] = True
    labels = torch.zeros(4, 8, dtype=torch.int64)
    labels[:, 4:] = 4  # thing 1 of 2, with 3 stuff classes
    labels[0, 3] = 2
    instances = make_instances(masks, [0.9, 0.8, 0.7, 0.5], [0, 1, 0, 1])
    panoptic_map, info = build(limit=2)(sem_seg_of(labels, 5), instances)
    assert panoptic_map.tolist() == [[1, 1, 2, 0, 0, 0, 0, 0]] + [[1, 1, 2, 3, 0, 0, 0, 0]] * 3
    assert [(s["isthing"], s["category_id"], s["area"]) for s in info] == [(True, 0, 8), (True, 1, 4), (False, 0, 3)]


def test_no_thing_channels_are_left_over_where_none_are_predicted():
    """Without instances a scene of thing pixels is all void; the stuff limit is that of the config: 4096 by default."""
    labels = torch.full((64, 65), 3)
    labels[:, :64] = 0
    panoptic_map, info = build(limit=4096)(sem_seg_of(labels, 5), make_instances(torch.zeros(0, 64, 65).bool(), [], []))
    assert [s["area"] for s in info] == [4096] and not panoptic_map[:, 64].any()
    labels[0, 0] = 1
    panoptic_map, info = build(limit=4096)(sem_seg_of(labels, 5), make_instances(torch.zeros(0, 64, 65).bool(), [], []))
    assert info == [] and not panoptic_map.any()

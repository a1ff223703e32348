"""MaskGuidedFusion's rule against a slow one, at the thresholds, and its speed in host reads."""

import random
from fractions import Fraction

import pytest
import torch
from dispatch_counts import CountReads, CountWholeMaps
from fusions import instances_of

from panoptic_fusion.data.label_space import LabelSpace
from panoptic_fusion.modeling.fusion import HeuristicFusion, MaskGuidedFusion, SemSegLogits

SIZE = (12, 16)
NUM_THINGS, NUM_STUFF = 2, 3


def label_space():
    return LabelSpace.from_categories(
        [
            {"id": i + 1, "name": f"c{i}", "isthing": int(i < NUM_THINGS), "color": [i, i, i]}
            for i in range(NUM_THINGS + NUM_STUFF)
        ]
    )


def build(kind=MaskGuidedFusion, ontology="full", overlap=0.4, confidence=0.5, limit=5, **kwargs):
    return kind(
        label_space=label_space(),
        ontology=ontology,
        instances_confidence_thresh=confidence,
        overlap_thresh=overlap,
        stuff_area_limit=limit,
        **kwargs,
    )


def sem_seg_of(labels, channels):
    """Logits at stride 1 whose argmax is `labels` (H, W)."""
    logits = torch.nn.functional.one_hot(labels, channels).permute(2, 0, 1).float() * 5
    return SemSegLogits(logits, tuple(labels.shape), tuple(labels.shape), tuple(labels.shape))


def slow_rule(fusion, labels, instances):
    """The rule on whole masks with exact fractions: the ids of instances by pixel, -1 where no instance is."""
    canvas = torch.full(labels.shape, -1)
    things = labels >= NUM_STUFF
    order = sorted(range(len(instances)), key=lambda i: (-float(instances.scores[i]), i))
    for row in order:
        mask = instances.pred_masks[row]
        area = int(mask.sum())
        if float(instances.scores[row]) < fusion.instances_confidence_thresh or area == 0:
            continue
        agreed = int((mask & things).sum())
        whole = area if fusion.agreement == "coverage" else int((mask | things).sum())
        covered = Fraction(int((mask & (canvas >= 0)).sum()), area)
        if covered < Fraction(str(fusion.overlap_thresh)) and Fraction(agreed, whole) > Fraction(
            str(fusion.agreement_thresh)
        ):
            canvas[mask & (canvas < 0)] = row
    return canvas


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("agreement", ["coverage", "iou"])
@pytest.mark.parametrize("ontology", ["full", "collapsed"])
def test_equals_the_slow_rule(agreement, ontology):
    rng = random.Random(0)
    torch.manual_seed(0)
    channels = {"full": NUM_STUFF + NUM_THINGS, "collapsed": NUM_STUFF + 1}[ontology]
    accepted = rejected = 0
    for _ in range(200):
        fusion = build(
            ontology=ontology,
            agreement=agreement,
            agreement_thresh=rng.choice([0.7, 0.5, 0.2]),
            overlap=rng.choice([0.4, 0.25]),
        )
        labels = torch.randint(0, NUM_STUFF, SIZE)
        num = rng.choice([0, 1, 2, 4, 8])
        masks = torch.zeros(num, *SIZE, dtype=torch.bool)
        for mask in masks:
            y, x = rng.randrange(SIZE[0]), rng.randrange(SIZE[1])
            mask[y : y + rng.randint(0, 8), x : x + rng.randint(0, 8)] = True
            if rng.random() < 0.8:
                labels[mask & (torch.rand(SIZE) < rng.choice([0.5, 0.8, 1.0]))] = rng.randrange(NUM_STUFF, channels)
        scores = [rng.choice([0.4, 0.5, 0.7, 0.9]) for _ in range(num)]
        instances = instances_of(masks, scores, torch.randint(0, NUM_THINGS, (num,)))
        panoptic, segments = fusion(sem_seg_of(labels, channels), instances)
        expected = slow_rule(fusion, labels, instances)
        rows = {s["id"]: s["instance_id"] for s in segments if s["isthing"]}
        ours = torch.full(SIZE, -1)
        for segment_id, row in rows.items():
            ours[panoptic == segment_id] = row
        assert torch.equal(ours, expected)
        for s in segments:
            assert s["area"] == int((panoptic == s["id"]).sum())
            if not s["isthing"]:
                assert bool((labels[panoptic == s["id"]] == s["category_id"]).all())
        accepted += len(rows)
        rejected += num - len(rows)
    assert accepted > 30 and rejected > 100


@pytest.mark.usefixtures("implementation")
def test_thresholds_are_strict():
    # One instance of 10 pixels, of which 7 are things: not more than 0.7.
    labels = torch.zeros(4, 10, dtype=torch.int64)
    masks = torch.zeros(1, 4, 10, dtype=torch.bool)
    masks[0, 0] = True
    labels[0, :7] = NUM_STUFF
    assert _things(build(), labels, masks, [0.9]) == []
    labels[0, 7] = NUM_STUFF
    assert _things(build(), labels, masks, [0.9]) == [0]
    # Two of 10 pixels: the second has 4 of its pixels in the first, which is not less than 0.4.
    labels[:] = NUM_STUFF
    masks = torch.zeros(2, 4, 10, dtype=torch.bool)
    masks[0, 0], masks[1, 0, :4], masks[1, 1, :6] = True, True, True
    assert _things(build(), labels, masks, [0.9, 0.8]) == [0]
    masks[1, 0, 3], masks[1, 1, 6] = False, True
    assert _things(build(), labels, masks, [0.9, 0.8]) == [0, 1]


def _things(fusion, labels, masks, scores):
    sem_seg = sem_seg_of(labels, NUM_STUFF + NUM_THINGS)
    return [s["instance_id"] for s in fusion(sem_seg, instances_of(masks, scores))[1] if s["isthing"]]


@pytest.mark.usefixtures("implementation")
def test_iou_with_the_whole_image_rejects_two_perfect_instances():
    labels = torch.zeros(8, 8, dtype=torch.int64)
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, :4, :4] = masks[1, 4:, 4:] = True
    labels[masks.any(0)] = NUM_STUFF
    assert _things(build(agreement="coverage"), labels, masks, [0.9, 0.9]) == [0, 1]
    assert _things(build(agreement="iou"), labels, masks, [0.9, 0.9]) == []
    assert _things(build(agreement="iou"), torch.where(masks[0], NUM_STUFF, 0), masks[:1], [0.9]) == [0]


def test_what_semantics_does_not_confirm_goes_to_stuff():
    labels = torch.ones(8, 8, dtype=torch.int64)
    masks = torch.ones(1, 8, 8, dtype=torch.bool)
    sem_seg = sem_seg_of(labels, NUM_STUFF + NUM_THINGS)
    panoptic, segments = build()(sem_seg, instances_of(masks, [0.99]))
    assert segments == [{"id": 1, "isthing": False, "category_id": 1, "area": 64}] and bool((panoptic == 1).all())
    _, segments = build(HeuristicFusion, overlap=0.5)(sem_seg, instances_of(masks, [0.99]))
    assert [s["isthing"] for s in segments] == [True]


@pytest.mark.usefixtures("implementation")
def test_no_instance():
    sem_seg = sem_seg_of(torch.zeros(SIZE, dtype=torch.int64), 5)
    panoptic, segments = build()(sem_seg, instances_of(torch.zeros(0, *SIZE) > 0, []))
    assert [s["category_id"] for s in segments] == [0] and panoptic.dtype == torch.int32


def test_reads_on_the_host_do_not_grow_with_the_instances():
    def reads(num):
        torch.manual_seed(0)
        masks = torch.rand(num, *SIZE) < 0.1
        instances = instances_of(masks, torch.rand(num) * 0.5 + 0.5)
        sem_seg = sem_seg_of(torch.randint(0, 5, SIZE), 5)
        with CountReads() as count:
            build()(sem_seg, instances)
        return count.number

    assert reads(3) == reads(60)


@pytest.mark.parametrize("agreement", ["coverage", "iou"])
def test_whole_maps_are_looked_at_once_not_once_an_instance(agreement):
    def looks(num):
        masks = torch.zeros(num, *SIZE, dtype=torch.bool)
        masks[:, 2:5, 3:7] = True
        instances, sem_seg = instances_of(masks, torch.full((num,), 0.9)), sem_seg_of(torch.full(SIZE, 4), 5)
        with CountWholeMaps(SIZE) as count:
            build(agreement=agreement)(sem_seg, instances)
        return count.number

    assert looks(3) == looks(60)

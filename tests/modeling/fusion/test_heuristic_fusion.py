"""HeuristicFusion: detectron2's combine_semantic_and_instance_outputs on our channels; the registry and its errors."""

import random
from types import SimpleNamespace

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.layers import paste_masks_in_image
from detectron2.modeling.meta_arch.panoptic_fpn import combine_semantic_and_instance_outputs
from detectron2.structures import BitMasks, Boxes, Instances

from panoptic_fusion.data.label_space import LabelSpace
from panoptic_fusion.modeling.fusion import HeuristicFusion, SemSegLogits, build_panoptic_fusion
from panoptic_fusion.modeling.fusion.greedy import GreedyFusion


def categories(num_things, num_stuff):
    return [
        {"id": i + 1, "name": f"c{i}", "isthing": int(i < num_things), "color": [i, i, i]}
        for i in range(num_things + num_stuff)
    ]


def build(num_things=3, num_stuff=4, ontology="full", confidence=0.5, overlap=0.5, limit=20):
    return HeuristicFusion(
        label_space=LabelSpace.from_categories(categories(num_things, num_stuff)),
        ontology=ontology,
        instances_confidence_thresh=confidence,
        overlap_thresh=overlap,
        stuff_area_limit=limit,
    )


def random_instances(rng, size, num, num_things=3):
    """Instances with pred_masks: boxes with holes; scores with ties and on the threshold; some masks empty."""
    masks = torch.zeros(num, *size, dtype=torch.bool)
    for mask in masks:
        y0, x0 = rng.randrange(size[0]), rng.randrange(size[1])
        mask[y0 : y0 + rng.randint(0, size[0]), x0 : x0 + rng.randint(0, size[1])] = True
        if rng.random() < 0.5:
            mask &= torch.rand(size) < 0.7
    scores = torch.tensor([rng.choice([rng.random(), 0.1, 0.5, 0.6, 0.7, 0.9]) for _ in range(num)])
    return Instances(
        size,
        pred_boxes=BitMasks(masks).get_bounding_boxes() if num else Boxes(torch.zeros(0, 4)),
        scores=scores,
        pred_classes=torch.tensor([rng.randrange(num_things) for _ in range(num)], dtype=torch.int64),
        pred_masks=masks,
    )


def random_sem_seg(rng, size, channels):
    """Logits at stride 4 and labels (H, W) that they give."""
    padded = tuple(4 * (side // 4 + 1) for side in size)
    logits = torch.randn(channels, padded[0] // 4, padded[1] // 4)
    sem_seg = SemSegLogits(logits, padded, size, size)
    return sem_seg, sem_seg.full().argmax(0)


def detectron2_result(fusion, instances, labels):
    """detectron2's function on our inputs (its label 0 = things, 1 + s = stuff s), its result in our terms."""
    num_stuff = fusion.label_space.num_stuff
    labels = torch.where(labels < num_stuff, labels + 1, torch.zeros_like(labels))
    panoptic_map, segments_info = combine_semantic_and_instance_outputs(
        instances, labels, fusion.overlap_thresh, fusion.stuff_area_limit, fusion.instances_confidence_thresh
    )
    for segment in segments_info:
        if segment["isthing"]:
            segment["area"] = int((panoptic_map == segment["id"]).sum())
        else:
            segment["category_id"] -= 1
    return panoptic_map, segments_info


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("ontology", ["full", "collapsed", "stuff"])
def test_equals_detectron2(ontology):
    rng = random.Random(ontology)
    torch.manual_seed(rng.randrange(10**6))
    num_segments = 0
    for _ in range(150):
        fusion = build(
            ontology=ontology,
            confidence=rng.choice([0.0, 0.5, 0.6, 0.7]),
            overlap=rng.choice([0.0, 0.2, 0.5, 0.75]),
            limit=rng.choice([1, 10, 60]),  # at 0 detectron2 lists stuff without a pixel
        )
        size = (rng.randint(1, 30), rng.randint(1, 30))
        instances = random_instances(rng, size, rng.choice([0, 1, 2, 5, 15]))
        sem_seg, labels = random_sem_seg(rng, size, fusion.label_space.num_channels(ontology))
        panoptic_map, segments_info = fusion(sem_seg, instances)
        expected_map, expected_info = detectron2_result(fusion, instances, labels)
        assert panoptic_map.dtype == torch.int32
        assert torch.equal(panoptic_map, expected_map)
        assert segments_info == expected_info
        num_segments += len(segments_info)
    assert num_segments > 300


def slow_heuristic(instances, labels, num_stuff, confidence, overlap, limit):
    """The rule by loops over pixels, without detectron2."""
    height, width = labels.shape
    labels, masks, scores = labels.tolist(), instances.pred_masks.tolist(), instances.scores.tolist()
    canvas = [[0] * width for _ in range(height)]
    segments = []
    rows = [row for row in range(len(scores)) if scores[row] >= confidence]
    order = sorted(rows, key=lambda row: (-scores[row], row))
    for row in order:
        pixels = [(y, x) for y in range(height) for x in range(width) if masks[row][y][x]]
        free = [(y, x) for y, x in pixels if canvas[y][x] == 0]
        if not pixels or (len(pixels) - len(free)) / len(pixels) > overlap:
            continue
        segments.append((True, row, len(free)))
        for y, x in free:
            canvas[y][x] = len(segments)
    for stuff in range(num_stuff):
        pixels = [(y, x) for y in range(height) for x in range(width) if canvas[y][x] == 0 and labels[y][x] == stuff]
        if pixels and len(pixels) >= limit:
            segments.append((False, stuff, len(pixels)))
            for y, x in pixels:
                canvas[y][x] = len(segments)
    return canvas, segments


@pytest.mark.usefixtures("implementation")
def test_equals_loops_over_pixels():
    rng = random.Random(5)
    torch.manual_seed(5)
    for _ in range(200):
        num_stuff, ontology = rng.randint(1, 3), rng.choice(["full", "collapsed", "stuff"])
        thresholds = (rng.choice([0.3, 0.5, 0.6]), rng.choice([0.0, 0.3, 0.5]), rng.choice([0, 4, 25]))
        fusion = build(3, num_stuff, ontology, *thresholds)
        size = (rng.randint(1, 12), rng.randint(1, 12))
        instances = random_instances(rng, size, rng.choice([0, 1, 4, 9]))
        sem_seg, labels = random_sem_seg(rng, size, fusion.label_space.num_channels(ontology))
        panoptic_map, segments_info = fusion(sem_seg, instances)
        canvas, segments = slow_heuristic(instances, labels, num_stuff, *thresholds)
        assert panoptic_map.tolist() == canvas
        got = [(s["isthing"], s["instance_id"] if s["isthing"] else s["category_id"], s["area"]) for s in segments_info]
        assert got == segments
        for s in segments_info:
            assert all(type(value) in (int, float, bool) for value in s.values())


@pytest.mark.usefixtures("implementation")
def test_mask_logits_equal_pasted_masks():
    """The model's path (mask logits on boxes) gives what detectron2 gives from the masks that it pastes."""
    rng = random.Random(7)
    torch.manual_seed(7)
    for num in [0, 1, 5, 120, 300]:
        size = (48, 64)
        fusion = build(limit=30)
        corner = torch.rand(num, 2) * 60 - 8
        boxes = Boxes(torch.cat([corner, corner + 1 + torch.rand(num, 2) * 30], dim=1))
        boxes.clip(size)
        instances = Instances(
            size,
            pred_boxes=boxes,
            scores=torch.rand(num),
            pred_classes=torch.randint(3, (num,)),
            pred_mask_logits=torch.nn.functional.interpolate(torch.randn(num, 1, 4, 4) * 4 + 1, size=(28, 28))[:, 0],
        )
        instances = instances[boxes.nonempty()]
        sem_seg, labels = random_sem_seg(rng, size, 7)
        panoptic_map, segments_info = fusion(sem_seg, instances)
        instances.pred_masks = paste_masks_in_image(instances.pred_mask_logits.sigmoid(), instances.pred_boxes, size)
        expected_map, expected_info = detectron2_result(fusion, instances, labels)
        assert torch.equal(panoptic_map, expected_map)
        assert segments_info == expected_info


@pytest.mark.usefixtures("implementation")
def test_by_hand():
    """A large thing of high score under a small one: covered by exactly half it stays, by more it goes."""
    size = (4, 8)
    masks = torch.zeros(3, *size, dtype=torch.bool)
    masks[0, :, :4] = True  # 16 pixels, score .9
    masks[1, :, 2:6] = True  # 16 pixels, 8 of them on the first, score .8
    masks[2, 0, 3:7] = True  # 4 pixels, 3 of them on the others, score .7
    instances = Instances(
        size,
        pred_boxes=BitMasks(masks).get_bounding_boxes(),
        scores=torch.tensor([0.9, 0.8, 0.7]),
        pred_classes=torch.tensor([0, 1, 2]),
        pred_masks=masks,
    )
    logits = torch.zeros(7, 1, 2)
    logits[2] = 1
    panoptic_map, segments_info = build(limit=8)(SemSegLogits(logits, size, size, size), instances)
    assert panoptic_map.tolist() == [[1, 1, 1, 1, 2, 2, 3, 3]] * 4
    assert [(s["id"], s["isthing"], s["category_id"], s["area"]) for s in segments_info] == [
        (1, True, 0, 16),
        (2, True, 1, 8),
        (3, False, 2, 8),
    ]


@pytest.mark.usefixtures("implementation")
def test_threshold_that_float32_cannot_hold():
    """float32(0.7) is below 0.7: as in detectron2, an instance of that score is not used."""
    size = (8, 8)
    instances = random_instances(random.Random(0), size, 1)
    instances.pred_masks[:] = True
    instances.pred_boxes = Boxes(torch.tensor([[0.0, 0, 8, 8]]))
    instances.scores = torch.tensor([0.7])
    sem_seg, labels = random_sem_seg(random.Random(0), size, 7)
    fusion = build(confidence=0.7, limit=0)
    assert not any(s["isthing"] for s in fusion(sem_seg, instances)[1])
    assert fusion(sem_seg, instances)[1] == detectron2_result(fusion, instances, labels)[1]


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("num_things, num_stuff", [(0, 3), (2, 0)])
@pytest.mark.parametrize("ontology", ["full", "collapsed"])
def test_no_thing_or_no_stuff_class(num_things, num_stuff, ontology):
    size = (16, 20)
    fusion = build(num_things, num_stuff, ontology, limit=1)
    instances = random_instances(random.Random(1), size, 0 if num_things == 0 else 6, max(num_things, 1))
    sem_seg, _ = random_sem_seg(random.Random(1), size, fusion.label_space.num_channels(ontology))
    panoptic_map, segments_info = fusion(sem_seg, instances)
    assert {s["isthing"] for s in segments_info} == {num_things > 0}
    assert sorted(panoptic_map[panoptic_map > 0].unique().tolist()) == [s["id"] for s in segments_info]


@pytest.mark.usefixtures("implementation")
def test_complete_overlap_allowed_gives_no_empty_segment():
    size = (8, 8)
    instances = random_instances(random.Random(2), size, 3)
    instances.pred_masks[:] = True
    instances.pred_boxes = Boxes(torch.tensor([[0.0, 0, 8, 8]] * 3))
    instances.scores = torch.tensor([0.6, 0.9, 0.8])
    sem_seg, _ = random_sem_seg(random.Random(2), size, 7)
    panoptic_map, segments_info = build(overlap=1.0)(sem_seg, instances)
    assert [s["instance_id"] for s in segments_info] == [1] and (panoptic_map == 1).all()


class LowestScoreFirst(GreedyFusion):
    """A rule of the tests: the lowest score on top, everything accepted that lies on stuff only."""

    def order(self, scene):
        return scene.kept[::-1]

    def accept(self, scene, candidate):
        on_things = scene.sem_labels[candidate.window] >= self.label_space.num_stuff
        return (on_things & candidate.mask).logical_not().all()


@pytest.mark.usefixtures("implementation")
def test_a_rule_states_its_order_and_its_accept_decision():
    rng = random.Random(4)
    torch.manual_seed(4)
    for _ in range(50):
        size = (rng.randint(1, 20), rng.randint(1, 20))
        instances = random_instances(rng, size, rng.choice([0, 1, 4]))
        sem_seg, labels = random_sem_seg(rng, size, 5)
        fusion = LowestScoreFirst(
            label_space=LabelSpace.from_categories(categories(1, 4)),
            ontology="full",
            instances_confidence_thresh=0.3,
            overlap_thresh=0.5,
            stuff_area_limit=10**6,
        )
        expected = torch.zeros(size, dtype=torch.int64)
        for row in instances.scores.argsort(descending=True, stable=True).tolist():  # the last painted is on top
            mask = instances.pred_masks[row]
            if instances.scores[row] >= 0.3 and not (labels[mask] >= 4).any():
                expected[mask] = row + 1
        panoptic_map, segments_info = fusion(sem_seg, instances)
        rows = torch.tensor([0] + [s["instance_id"] + 1 for s in segments_info])
        assert torch.equal(rows[panoptic_map.long()], expected)


@pytest.mark.parametrize(("ontology", "channels"), [("full", 4), ("collapsed", 3), ("stuff", 2)])
def test_left_over_pixels_from_the_stuff_channels_only(ontology, channels):
    """Four pixels with one winner each: stuff 0, stuff 1, and two things over stuff 1 and over stuff 0."""
    logits = torch.tensor([[3.0, 0, 1, 2], [0, 3, 2, 1], [1, 1, 9, 0], [1, 1, 0, 9]])[:, None]
    if ontology != "full":
        logits = torch.cat([logits[:2], logits[2:].amax(0, keepdim=True)])[:channels]
    sem_seg = SemSegLogits(logits, (1, 4), (1, 4), (1, 4))
    nothing = random_instances(random.Random(0), (1, 4), 0)
    keys = {"instances_confidence_thresh": 0.5, "overlap_thresh": 0.5, "stuff_area_limit": 0}
    for only, expected in ((False, [0, 1, 1, 0] if ontology == "stuff" else [0, 1, -1, -1]), (True, [0, 1, 1, 0])):
        fusion = HeuristicFusion(
            label_space=LabelSpace.from_categories(categories(2, 2)),
            ontology=ontology,
            stuff_channels_only=only,
            **keys,
        )
        panoptic_map, segments_info = fusion(sem_seg, nothing)
        classes = {0: -1, **{s["id"]: s["category_id"] for s in segments_info}}
        assert [classes[i] for i in panoptic_map[0].tolist()] == expected
    assert build_panoptic_fusion(config(STUFF_CHANNELS_ONLY=True)).stuff_channels_only


def test_sizes_that_do_not_fit():
    instances = random_instances(random.Random(6), (16, 20), 2)
    sem_seg, _ = random_sem_seg(random.Random(6), (16, 24), 7)
    with pytest.raises(ValueError, match=r"\(16, 20\).*\(16, 24\)"):
        build()(sem_seg, instances)


def test_inputs_are_unchanged():
    size = (16, 20)
    instances = random_instances(random.Random(3), size, 6)
    sem_seg, _ = random_sem_seg(random.Random(3), size, 7)
    before = instances.pred_masks.clone(), instances.scores.clone(), sem_seg.logits.clone()
    build()(sem_seg, instances)
    after = instances.pred_masks, instances.scores, sem_seg.logits
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert set(instances.get_fields()) == {"pred_boxes", "scores", "pred_classes", "pred_masks"}


def config(name="HeuristicFusion", **fusion):
    keys = {"NAME": name, "INSTANCES_CONFIDENCE_THRESH": 0.5, "OVERLAP_THRESH": 0.5, "STUFF_AREA_LIMIT": 4096}
    keys = {**keys, "STUFF_CHANNELS_ONLY": False, "STUFF_AREA_OF": "class", **fusion}
    model = {"CATEGORIES": categories(2, 3), "SEM_SEG_HEAD": {"ONTOLOGY": "full"}, "PANOPTIC_FUSION": keys}
    return CfgNode({"MODEL": model})


def test_build_from_config():
    fusion = build_panoptic_fusion(config(OVERLAP_THRESH=0.25))
    assert isinstance(fusion, HeuristicFusion)
    assert (fusion.overlap_thresh, fusion.stuff_area_limit) == (0.25, 4096)
    assert (fusion.label_space.num_things, fusion.label_space.num_stuff) == (2, 3)
    assert fusion.losses(SimpleNamespace()) == {}
    assert not hasattr(fusion, "cfg")


def test_errors_name_the_key():
    with pytest.raises(ValueError, match="OVERLAP_THRESH"):
        build_panoptic_fusion(config(OVERLAP_THRESH=50))
    with pytest.raises(ValueError, match="STUFF_AREA_LIMIT"):
        build_panoptic_fusion(config(STUFF_AREA_LIMIT=-1))

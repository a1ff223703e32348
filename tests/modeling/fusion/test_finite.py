"""Numbers that are not finite, for every rule: 2,000 random inputs each, against the same rule without them."""

import math
import random

import pytest
import torch
from detectron2.structures import Boxes, Instances

from panoptic_fusion.data.label_space import LabelSpace
from panoptic_fusion.decisions import FINITE_LIMIT
from panoptic_fusion.modeling.fusion import PANOPTIC_FUSION_REGISTRY, SemSegLogits
from panoptic_fusion.modeling.fusion.finite import are_finite, broken_cells, usable_instances
from panoptic_fusion.networks.single_task import SemanticNetwork

NOT_FINITE = [math.nan, math.inf, -math.inf, 3e38, -3e38]
NUM_THINGS, NUM_STUFF = 2, 2
GRID = (4, 6)  # cells of the semantic logits, of 2 x 2 pixels
RULES = sorted(name for name, _ in PANOPTIC_FUSION_REGISTRY)


def build(name, ontology="full"):
    categories = [{"id": i, "name": f"c{i}", "isthing": int(i < NUM_THINGS)} for i in range(NUM_THINGS + NUM_STUFF)]
    torch.manual_seed(0)
    return PANOPTIC_FUSION_REGISTRY.get(name)(
        label_space=LabelSpace.from_categories(categories),
        ontology=ontology,
        instances_confidence_thresh=0.3,
        overlap_thresh=0.5,
        stuff_area_limit=3,
    ).eval()


def random_inputs(rng, channels):
    """Small logits and instances, as logits or as bit masks, in pixels of a map of the same or another size."""
    padded, image = (8, 12), (7, 10)
    output = rng.choice([image, image, image, (5, 9)])
    num = rng.choice([0, 1, 2, 3])
    corner = torch.rand(num, 2) * torch.tensor([output[1] - 3.0, output[0] - 3.0])
    boxes = torch.cat([corner, corner + 1 + torch.rand(num, 2) * 5], 1)
    instances = Instances(output, pred_boxes=Boxes(boxes), scores=torch.rand(num), pred_classes=torch.arange(num) % 2)
    instances.pred_boxes.clip(output)
    if rng.random() < 0.8:
        instances.pred_mask_logits = 4 * torch.randn(num, 4, 4)
    else:
        instances.pred_masks = torch.rand(num, *output) < 0.7
    return SemSegLogits(3 * torch.randn(channels, *GRID), padded, image, output), instances


def break_some(rng, sem_seg, instances):
    """Puts values that are not finite into copies; returns them with the rows of the instances that are still whole."""
    broken = Instances(instances.image_size, **{k: _copy(v) for k, v in instances.get_fields().items()})
    fields = [broken.pred_boxes.tensor, broken.scores]
    fields += [broken.pred_mask_logits] if broken.has("pred_mask_logits") else []
    whole = []
    for row in range(len(instances)):
        if rng.random() < 0.5:
            field = rng.choice(fields)[row].view(-1)
            field[rng.randrange(field.numel())] = rng.choice(NOT_FINITE)
        else:
            whole.append(row)
    logits = sem_seg.logits.clone()
    cells = []
    if rng.random() < 0.5:
        cells = [(rng.randrange(GRID[0]), rng.randrange(GRID[1])) for _ in range(rng.choice([1, 1, 3, 24]))]
        for y, x in cells:
            for channel in rng.sample(range(len(logits)), rng.randint(1, len(logits))):
                logits[channel, y, x] = rng.choice(NOT_FINITE)
    return SemSegLogits(logits, sem_seg.padded_size, sem_seg.image_size, sem_seg.output_size), broken, whole, cells


def _copy(value):
    return Boxes(value.tensor.clone()) if isinstance(value, Boxes) else value.clone()


def reads(sem_seg, cells):
    """Which output pixels' bilinear interpolation gives weight to one of the cells: by resizing an indicator map."""
    indicator = torch.zeros(1, *GRID)
    for y, x in cells:
        indicator[0, y, x] = 1
    return SemSegLogits(indicator, sem_seg.padded_size, sem_seg.image_size, sem_seg.output_size).full()[0] > 0


def check_consistent(panoptic_seg, segments_info, size, instances):
    """What evaluators and writers rely on."""
    assert panoptic_seg.dtype == torch.int32 and tuple(panoptic_seg.shape) == size
    ids = [s["id"] for s in segments_info]
    assert len(set(ids)) == len(ids) and set(panoptic_seg.unique().tolist()) - {0} == set(ids)
    for s in segments_info:
        assert s["area"] == int((panoptic_seg == s["id"]).sum()) > 0
        if s["isthing"]:
            assert math.isfinite(s["score"]) and s["score"] == float(instances.scores[s["instance_id"]])
            assert s["category_id"] == int(instances.pred_classes[s["instance_id"]])


@pytest.mark.parametrize("name", RULES)
@torch.no_grad()
def test_what_is_not_finite_never_enters_a_rule(name):
    fusion, rng = build(name), random.Random(name)
    dropped = voided = same = 0
    for trial in range(2000):
        sem_seg, instances = random_inputs(rng, NUM_STUFF + NUM_THINGS)
        given, broken, whole, cells = break_some(rng, sem_seg, instances)
        size = rng.choice([None, None, None, (6, 13)])
        panoptic_seg, segments_info = fusion(given, broken, size)
        output = size or sem_seg.output_size
        check_consistent(panoptic_seg, segments_info, output, broken)
        assert {s["instance_id"] for s in segments_info if s["isthing"]} <= set(whole)
        dropped += len(instances) - len(whole)
        if not cells and trial % 4 == 0:  # exactly the rule on the instances that are whole
            expected_seg, expected_info = fusion(sem_seg, instances[torch.tensor(whole, dtype=torch.int64)], size)
            assert torch.equal(panoptic_seg, expected_seg)
            rows = [{**s, "instance_id": whole[s["instance_id"]]} if s["isthing"] else s for s in expected_info]
            assert segments_info == rows
            same += 1
        elif cells and size is None:
            stuff = [s["id"] for s in segments_info if not s["isthing"]]
            assert not torch.isin(panoptic_seg[reads(sem_seg, cells)], torch.tensor(stuff)).any()
            voided += 1
    assert min(dropped, voided, same) > 200  # the cases are not trivial


@pytest.mark.parametrize("name", RULES)
@torch.no_grad()
def test_nothing_finite_at_all(name):
    """All logits and all instances are NaN: all is void. All logits alone: only instances are left, whole ones."""
    fusion, rng = build(name), random.Random(1)
    for value in NOT_FINITE:
        sem_seg, instances = random_inputs(rng, NUM_STUFF + NUM_THINGS)
        sem_seg.logits.fill_(value)
        panoptic_seg, segments_info = fusion(sem_seg, instances)
        check_consistent(panoptic_seg, segments_info, sem_seg.output_size, instances)
        assert all(s["isthing"] for s in segments_info)
        instances.scores.fill_(value)
        panoptic_seg, segments_info = fusion(sem_seg, instances)
        assert not panoptic_seg.any() and segments_info == []


@pytest.mark.parametrize("ontology", ["collapsed", "stuff"])
@torch.no_grad()
def test_other_ontologies(ontology):
    fusion, rng = build("HeuristicFusion", ontology), random.Random(2)
    fusion.stuff_channels_only = True
    for _ in range(200):
        sem_seg, instances = random_inputs(rng, NUM_STUFF + (ontology == "collapsed"))
        given, broken, whole, cells = break_some(rng, sem_seg, instances)
        panoptic_seg, segments_info = fusion(given, broken)
        check_consistent(panoptic_seg, segments_info, sem_seg.output_size, broken)
        stuff = torch.tensor([s["id"] for s in segments_info if not s["isthing"]])
        assert not torch.isin(panoptic_seg[reads(sem_seg, cells)], stuff).any()


def test_a_large_instance_is_not_taken_for_stuff_where_logits_are_broken():
    """UPSNet gives an instance to the stuff class of most of its pixels. Pixels without a class have no say in that."""
    logits = torch.zeros(4, 4, 4)
    logits[2] = 5.0  # thing 0 everywhere, in cells of 4 pixels
    logits[:, :3] = math.nan  # but the upper three quarters are broken
    sem_seg = SemSegLogits(logits, (16, 16), (16, 16), (16, 16))
    whole = Instances((16, 16), pred_boxes=Boxes(torch.tensor([[0.0, 0, 16, 16]])), scores=torch.tensor([0.9]))
    whole.pred_classes, whole.pred_mask_logits = torch.tensor([0]), torch.full((1, 4, 4), 3.0)
    panoptic_seg, segments_info = build("UPSNetFusion")(sem_seg, whole)
    assert (panoptic_seg == 1).all()
    assert [(s["isthing"], s["category_id"], s["area"]) for s in segments_info] == [(True, 0, 256)]


def test_which_instances_and_cells_count_as_finite():
    instances = Instances((8, 8), pred_boxes=Boxes(torch.zeros(4, 4)), scores=torch.tensor([0.5, 0.5, 0.5, math.nan]))
    instances.pred_boxes.tensor[1, 2] = FINITE_LIMIT
    instances.pred_mask_logits = torch.zeros(4, 2, 2)
    instances.pred_mask_logits[2, 1, 1] = -math.inf
    assert usable_instances(instances).tolist() == [True, False, False, False]
    assert usable_instances(instances[:0]).tolist() == []
    logits = torch.zeros(3, 1, 5)
    logits[0, 0, 1], logits[2, 0, 2], logits[1, 0, 3], logits[1, 0, 4] = math.nan, math.inf, -math.inf, FINITE_LIMIT / 2
    assert broken_cells(logits).tolist() == [[False, True, True, True, False]]
    assert broken_cells(logits.half())[0, :4].tolist() == [False, True, True, True]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("value", "finite"), [(1e4, True), (torch.nan, False), (torch.inf, False), (-torch.inf, False)]
)
def test_one_number_of_one_tensor(dtype, value, finite):
    x, empty = torch.zeros(3, 4, dtype=dtype), torch.empty(0, 2)
    x[1, 2] = value
    assert are_finite(torch.ones(2), x, empty) == [True, finite, True]
    assert are_finite(x.float(), torch.ones(2, dtype=dtype)) == [finite, True]
    assert are_finite(empty) == [True] and are_finite(torch.tensor([-(2.0**60)])) == [False]


def test_a_semantic_network_makes_such_pixels_void():
    categories = [{"id": i, "name": f"c{i}", "isthing": int(i < 2)} for i in range(4)]
    network = SemanticNetwork(
        backbone=torch.nn.Identity(),
        sem_seg_head=torch.nn.Identity(),
        pixel_mean=[0.0],
        pixel_std=[1.0],
        label_space=LabelSpace.from_categories(categories),
    )
    logits = torch.zeros(4, 4, 4)
    logits[3] = 1.0  # thing 1
    logits[0, 0, 0] = math.nan
    panoptic_seg, segments_info = network._one_segment_per_class(SemSegLogits(logits, (4, 4), (4, 4), (4, 4)))
    (segment,) = segments_info
    assert (panoptic_seg == segment["id"]).tolist() == [[False, True, True, True]] + [[True] * 4] * 3
    assert panoptic_seg[0, 0] == 0 and {**segment, "id": 0} == {"id": 0, "isthing": True, "category_id": 1, "area": 15}

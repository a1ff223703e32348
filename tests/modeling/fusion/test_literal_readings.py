"""The literal readings of the papers, each switched on by one line of config, against slow rules."""

import random
from fractions import Fraction

import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances
from fusions import instances_of
from small_networks import small_cfg

from panoptic_fusion import resolve_config
from panoptic_fusion.errors import ConfigError
from panoptic_fusion.modeling.fusion import FusionTrainingInputs, SemSegLogits, build_panoptic_fusion
from panoptic_fusion.modeling.fusion.stuff_regions import drop_small_regions

S = 2  # stuff classes of the small config; two thing classes follow
PREFIX = "MODEL__PANOPTIC_FUSION__"


def build(name, **keys):
    torch.manual_seed(0)
    keys = {f"{PREFIX}{key}": value for key, value in {"NAME": name, **keys}.items()}
    return build_panoptic_fusion(resolve_config(small_cfg(**keys)))


def sem_seg_of(labels):
    logits = torch.nn.functional.one_hot(labels, S + 2).permute(2, 0, 1).float() * 5
    return SemSegLogits(logits, *[tuple(labels.shape)] * 3)


def rectangles(rng, size, num):
    masks = torch.zeros(num, *size, dtype=torch.bool)
    for mask in masks:
        y, x = rng.randint(0, size[0] - 2), rng.randint(0, size[1] - 2)
        mask[y : y + rng.randint(1, size[0]), x : x + rng.randint(1, size[1])] = True
    return masks


def rows_painted(fused):
    return {x["instance_id"] for x in fused[1] if x["isthing"]}


# -- OANet -----------------------------------------------------------------------------------------------------------


def slow_regions(labels, free, limit):
    """Flood fill with eight neighbors: 255 in regions of fewer pixels."""
    height, width = labels.shape
    result, seen = labels.clone(), set()
    for start in ((y, x) for y in range(height) for x in range(width)):
        if start in seen or not free[start] or labels[start] >= S:
            continue
        region, todo = {start}, [start]
        while todo:
            y, x = todo.pop()
            for near in ((y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)):
                inside = 0 <= near[0] < height and 0 <= near[1] < width and near not in region
                if inside and free[near] and labels[near] == labels[start]:
                    region.add(near)
                    todo.append(near)
        seen |= region
        if len(region) < limit:
            for place in region:
                result[place] = 255
    return result


def test_small_regions_equal_a_flood_fill():
    rng, dropped = random.Random(0), 0
    torch.manual_seed(0)
    for _ in range(40):
        size = (rng.randint(1, 14), rng.randint(1, 14))
        labels, free = torch.randint(0, S + 2, size), torch.rand(size) < 0.8
        limit = rng.choice([0, 1, 2, 4, 9])
        found = drop_small_regions(labels, free, num_stuff=S, limit=limit)
        assert torch.equal(found, slow_regions(labels, free, limit))
        dropped += int((found != labels).sum())
    assert dropped > 200


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("name", ["HeuristicFusion", "SeamlessFusion", "MaskGuidedFusion", "SpatialRankingFusion"])
@pytest.mark.parametrize("area_of", ["class", "region"])
def test_area_limit_of_connected_regions(name, area_of):
    """Class 1 has a region of 6 pixels and one of 4, which an instance cuts from the rest; class 0 has the others."""
    labels = torch.zeros(6, 10, dtype=torch.int64)
    labels[0, :] = 1
    mask = torch.zeros(1, 6, 10, dtype=torch.bool)
    mask[0, 0, 6] = mask[0, 3, 3] = True
    labels[mask[0]] = S
    labels[0, 7:] = 1
    fusion = build(name, STUFF_AREA_OF=area_of, STUFF_AREA_LIMIT=5)
    panoptic_seg, info = fusion(sem_seg_of(labels), instances_of(mask, [0.9]))
    areas = {x["category_id"]: x["area"] for x in info if not x["isthing"]}
    assert areas == {0: 49, 1: 6 if area_of == "region" else 9}
    assert int((panoptic_seg[0, 7:] == 0).sum()) == (3 if area_of == "region" else 0)


def test_without_generated_overlaps_the_module_sees_the_masks_of_the_data():
    """Two masks that do not overlap: no cell is contested, so there is no loss; with generated ones there is."""
    masks = torch.zeros(2, 32, 48, dtype=torch.bool)
    masks[0, 4:28, 2:24] = masks[1, 4:28, 24:46] = True
    labels = torch.full((1, 32, 48), 255)
    labels[0, masks[0]], labels[0, masks[1]] = S, S + 1
    gt = Instances((32, 48), gt_masks=BitMasks(masks), gt_classes=torch.tensor([0, 1]))
    gt.gt_boxes = gt.gt_masks.get_bounding_boxes()
    inputs = FusionTrainingInputs(None, labels, [gt], None, [(32, 48)], None)
    losses = {}
    for generate in (True, False):
        fusion = build("SpatialRankingFusion", SRM__STRIDE=1, SRM__GENERATE_OVERLAPS=generate)
        torch.manual_seed(1)
        losses[generate] = fusion.losses(inputs)["loss_srm"].item()
        assert torch.equal(fusion._training_masks(gt), masks) == (not generate)
    assert losses[False] == 0 and losses[True] > 0


def test_ranking_score_of_contested_cells():
    """Against slow sums; an instance without a contested cell has the score 1."""
    rng = random.Random(1)
    fusions = {
        cells: build("SpatialRankingFusion", SRM__STRIDE=1, SRM__SCORE_OVER=cells) for cells in ("mask", "contested")
    }
    differ = alone = 0
    for _ in range(30):
        size, num = (8, 9), rng.randint(2, 4)
        masks = rectangles(rng, size, num)
        classes = torch.tensor([rng.randint(0, 1) for _ in range(num)])
        instances = instances_of(masks, [0.9 - 0.1 * i for i in range(num)], classes)
        sem_seg = sem_seg_of(torch.zeros(size, dtype=torch.int64))
        channels = torch.stack([(masks & (classes == c)[:, None, None]).any(0) for c in (0, 1)])
        for cells, fusion in fusions.items():
            scene = fusion.scene(sem_seg, instances)
            probabilities = fusion.srm(channels[None].float())[0].softmax(0)
            expected = []
            for mask, c in zip(masks, classes.tolist(), strict=True):
                places = mask & channels.all(0) if cells == "contested" else mask
                values = [probabilities[c, y, x].item() for y, x in places.nonzero().tolist()]
                expected.append(sum(values) / len(values) if values else 1.0)
                alone += not values
            found = fusion.ranking_scores(scene).tolist()
            assert found == pytest.approx(expected, abs=1e-6)
            differ += cells == "contested" and found != fusions["mask"].ranking_scores(scene).tolist()
    assert differ > 10 and alone > 3


# -- TASCNet ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("overlap", ["coverage", "iou"])
def test_overlap_with_what_is_painted(overlap):
    """Exact fractions; every instance agrees with the things mask."""
    rng, rejected = random.Random(2), 0
    fusion = build("MaskGuidedFusion", TASC__OVERLAP=overlap, OVERLAP_THRESH=0.4)
    sem_seg = sem_seg_of(torch.full((7, 9), S))
    for _ in range(60):
        masks = rectangles(rng, (7, 9), rng.randint(1, 5))
        fused = fusion(sem_seg, instances_of(masks, [0.9 - 0.1 * i for i in range(len(masks))]))
        canvas, painted = torch.zeros(7, 9, dtype=torch.bool), set()
        for row, mask in enumerate(masks):
            whole = mask | canvas if overlap == "iou" else mask
            if Fraction(int((mask & canvas).sum()), int(whole.sum())) < Fraction(4, 10):
                if (mask & ~canvas).any():
                    painted.add(row)
                canvas |= mask
            else:
                rejected += 1
        assert rows_painted(fused) == painted
    assert rejected > 5


@pytest.mark.usefixtures("implementation")
def test_the_iou_accepts_what_coverage_rejects():
    """A small instance half inside a large one: coverage 1/2, IoU 2/34."""
    masks = torch.zeros(2, 6, 10, dtype=torch.bool)
    masks[0, :4, :8] = True
    masks[1, 3:5, 2:4] = True
    sem_seg = sem_seg_of(torch.full((6, 10), S))
    for overlap, expected in (("coverage", {0}), ("iou", {0, 1})):
        fusion = build("MaskGuidedFusion", TASC__OVERLAP=overlap)
        assert rows_painted(fusion(sem_seg, instances_of(masks, [0.9, 0.8]))) == expected


@pytest.mark.parametrize(("of", "expected"), [("sum", [0.8, 0.0, 0.9]), ("winner", [0.0, 0.0, 0.7])])
def test_probability_of_the_things_mask(of, expected):
    """Three pixels: torn between two things, stuff, a sure thing. Without instances, the loss is the mean square."""
    probabilities = torch.tensor([[0.1, 0.1, 0.4, 0.4], [0.6, 0.1, 0.2, 0.1], [0.05, 0.05, 0.7, 0.2]])
    logits = probabilities.log().T.reshape(1, 4, 1, 3).repeat_interleave(4, 2).repeat_interleave(4, 3)[..., :4, :12]
    labels = torch.zeros(1, 4, 12, dtype=torch.int64)
    nothing = Instances((4, 12), gt_masks=BitMasks(torch.zeros(0, 4, 12)), gt_classes=torch.zeros(0, dtype=torch.int64))
    found = Instances((4, 12), mask_logits=torch.zeros(0, 28, 28), proposal_boxes=Boxes(torch.zeros(0, 4)))
    inputs = FusionTrainingInputs(logits, labels, [nothing], [found], [(4, 12)], None)
    fusion = build("MaskGuidedFusion", TASC__THINGS_PROBABILITY=of, TASC__STRIDE=1)
    loss = fusion.losses(inputs)["loss_tasc"].item()
    assert loss == pytest.approx(sum(p * p for p in expected) / 3, abs=1e-5)


# -- UPSNet ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("assignment", [True, False])
def test_class_assignment(assignment):
    """The semantic side sees stuff 1 in the whole instance; its mask logits win the pixels all the same."""
    masks = torch.zeros(1, 8, 8, dtype=torch.bool)
    masks[0, 2:6, 2:6] = True
    labels = torch.zeros(8, 8, dtype=torch.int64)
    labels[masks[0]] = 1
    fusion = build("UPSNetFusion", UPSNET__CLASS_ASSIGNMENT=assignment)
    _, info = fusion(sem_seg_of(labels), instances_of(masks, [0.9]))
    assert [(x["isthing"], x["category_id"]) for x in info] == (
        [(False, 0), (False, 1)] if assignment else [(True, 0), (False, 0)]
    )


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("HeuristicFusion", "STUFF_AREA_OF"),
        ("MaskGuidedFusion", "TASC__OVERLAP"),
        ("MaskGuidedFusion", "TASC__THINGS_PROBABILITY"),
        ("SpatialRankingFusion", "SRM__SCORE_OVER"),
    ],
)
def test_other_values_are_refused(name, key):
    with pytest.raises(ConfigError, match=f"MODEL.PANOPTIC_FUSION.{key.replace('__', '.')} is 'foo': use one of"):
        build(name, **{key: "foo"})

"""SpatialRankingFusion: its loss and its order against slow ones, the tie and the person, two processes, edge cases."""

import math
import random

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from dispatch_counts import CountReads
from fusions import instances_of
from small_networks import example, small_cfg
from torch.nn.parallel import DistributedDataParallel
from two_processes import run_in_two_processes

from panoptic_fusion.data.label_space import LabelSpace
from panoptic_fusion.errors import ConfigError
from panoptic_fusion.modeling.fusion import FusionTrainingInputs, HeuristicFusion, SemSegLogits, SpatialRankingFusion
from panoptic_fusion.modeling.fusion.oanet.overlapping_masks import one_in_front, overlapping_masks
from panoptic_fusion.networks.freeze import freeze_parts

NUM_STUFF = 2


def build(num_things=3, kind=SpatialRankingFusion, ontology="full", confidence=0.5, num_stuff=NUM_STUFF, **kwargs):
    categories = [
        {"id": i + 1, "name": f"c{i}", "isthing": int(i < num_things), "color": [i, i, i]}
        for i in range(num_things + num_stuff)
    ]
    torch.manual_seed(0)
    return kind(
        label_space=LabelSpace.from_categories(categories),
        ontology=ontology,
        instances_confidence_thresh=confidence,
        overlap_thresh=0.5,
        stuff_area_limit=0,
        **kwargs,
    )


def flat_sem_seg(size, channels=5, image_size=None):
    """Logits, stride 1, of stuff channel 0 everywhere."""
    image_size = image_size or size
    logits = torch.zeros(channels, *image_size)
    logits[0] = 1
    return SemSegLogits(logits, image_size, image_size, size)


def rectangles(rng, size, num):
    masks = torch.zeros(num, *size, dtype=torch.bool)
    for mask in masks:
        y, x = rng.randint(0, size[0] // 2), rng.randint(0, size[1] // 2)
        mask[y : y + rng.randint(1, size[0]), x : x + rng.randint(1, size[1])] = True
    return masks


def training_inputs(rng, num_things, num_images=2, size=(32, 64)):
    """Images of different sizes in a padded batch; labels follow one of the instances, with stuff and void."""
    labels = torch.full((num_images, *size), 255)
    gt, sizes = [], []
    for own in labels:
        h, w = rng.randint(1, size[0]), rng.randint(1, size[1])
        masks = rectangles(rng, (h, w), rng.choice([0, 1, 2, 5, 12]))
        classes = torch.randint(0, num_things, (len(masks),))
        own[:h, :w] = torch.randint(0, NUM_STUFF, (h, w))
        for mask, cls in zip(masks, classes, strict=True):
            own[:h, :w][mask & (torch.rand(h, w) < 0.7)] = NUM_STUFF + cls
        own[:h, :w][torch.rand(h, w) < 0.1] = 255
        boxes = BitMasks(masks).get_bounding_boxes() if len(masks) else Boxes(torch.zeros(0, 4))
        gt.append(Instances((h, w), gt_masks=BitMasks(masks), gt_classes=classes, gt_boxes=boxes))
        sizes.append((h, w))
    return FusionTrainingInputs(None, labels, gt, None, sizes, None)


def middle(index, stride, length):
    return min(index * stride + stride // 2, length - 1)


def weights_of(fusion):
    conv = fusion.srm.branches[0][0]
    return conv.weight[:, :, 0, 0].tolist(), conv.bias.tolist()


def log_softmax(weight, bias, who):
    logits = [b + sum(row[c] for c in who) for row, b in zip(weight, bias, strict=True)]
    total = max(logits) + math.log(sum(math.exp(v - max(logits)) for v in logits))
    return [v - total for v in logits]


def slow_loss(fusion, inputs, masks_of):
    """Equation 2 cell by cell: what the pixel in the middle of a cell says, of the masks `masks_of(image)`."""
    weight, bias = weights_of(fusion)
    stride, terms = fusion.stride, []
    height, width = inputs.gt_sem_seg.shape[1:]
    for image, instances in enumerate(inputs.gt_instances):
        masks, (h, w) = masks_of(instances), instances.image_size
        for y in range(-(-height // stride)):
            for x in range(-(-width // stride)):
                if y * stride >= h or x * stride >= w:
                    continue  # padding
                v, u = middle(y, stride, h), middle(x, stride, w)
                who = {int(c) for m, c in zip(masks, instances.gt_classes, strict=True) if m[v, u]}
                label = int(inputs.gt_sem_seg[image, middle(y, stride, height), middle(x, stride, width)])
                if len(who) > 1 and label != 255 and label - NUM_STUFF in who:
                    terms.append(-log_softmax(weight, bias, who)[label - NUM_STUFF])
    return sum(terms) / len(terms) if terms else 0.0


@pytest.mark.parametrize("stride", [1, 2, 4, 8])
def test_loss_equals_loops_over_cells(stride):
    rng, values = random.Random(stride), []
    for seed in range(100):
        torch.manual_seed(seed)
        num_things = rng.choice([1, 2, 4])
        fusion = build(num_things, kernel="1x1", stride=stride, loss_weight=2.0)
        inputs = training_inputs(rng, num_things, size=(24, 32))
        if not all(overlap_at_cells(x, stride) for x in inputs.gt_instances):
            continue  # see test_masks_that_do_not_overlap
        loss = fusion.losses(inputs)["loss_srm"].item()
        assert loss == pytest.approx(2 * slow_loss(fusion, inputs, lambda x: x.gt_masks.tensor), abs=1e-5)
        values.append(loss)
    assert len(values) > 40 and sum(v > 0 for v in values) > 20 and 0 in values


def overlap_at_cells(instances, stride):
    """Whether some do, or there are too few that could."""
    h, w = instances.image_size
    rows = [middle(y, stride, h) for y in range(-(-h // stride))]
    cols = [middle(x, stride, w) for x in range(-(-w // stride))]
    counts = [int(instances.gt_masks.tensor[:, v, u].sum()) for v in rows for u in cols]
    return len(instances) < 2 or max(counts) > 1


def test_masks_that_do_not_overlap():
    """Of an image without any overlap the module sees generated masks, of the others it does not."""
    fusion = build(2, kernel="1x1", stride=1)
    size = (40, 60)
    masks = torch.zeros(2, *size, dtype=torch.bool)
    masks[0, 2:38, 2:30] = masks[1, 2:38, 30:58] = True
    apart = Instances(size, gt_masks=BitMasks(masks), gt_classes=torch.tensor([0, 1]))
    apart.gt_boxes = apart.gt_masks.get_bounding_boxes()
    wide = masks.clone()
    wide[0, 5, 31] = True
    over = Instances(size, gt_masks=BitMasks(wide), gt_classes=torch.tensor([0, 1]), gt_boxes=apart.gt_boxes)
    labels = torch.where(masks[0], NUM_STUFF, NUM_STUFF + 1).expand(2, -1, -1)
    inputs = FusionTrainingInputs(None, labels, [apart, over], None, [size] * 2, None)
    losses = []
    for seed in (*range(5), 0):
        torch.manual_seed(seed)
        losses.append(fusion.losses(inputs)["loss_srm"].item())
        torch.manual_seed(seed)
        made = overlapping_masks(masks, apart.gt_boxes.tensor, torch.arange(size[0]), torch.arange(size[1]))
        made = one_in_front(made, masks)
        expected = slow_loss(fusion, inputs, lambda x: made if x is apart else wide)  # noqa: B023
        assert losses[-1] == pytest.approx(expected, abs=1e-5)
    assert losses[0] == losses[-1] and len(set(losses)) > 2


def slow_ranking(fusion, instances, image_size):
    """Equation 3 for the instances of sufficient score, in the order of the rows."""
    weight, bias = weights_of(fusion)
    stride, (height, width) = fusion.stride, instances.image_size
    kept = [i for i, score in enumerate(instances.scores.tolist()) if score >= fusion.instances_confidence_thresh]
    values = {i: [] for i in kept}
    for y in range(-(-image_size[0] // stride)):
        for x in range(-(-image_size[1] // stride)):
            v = int((middle(y, stride, image_size[0]) + 0.5) * height / image_size[0])
            u = int((middle(x, stride, image_size[1]) + 0.5) * width / image_size[1])
            here = [i for i in kept if instances.pred_masks[i, v, u]]
            logs = log_softmax(weight, bias, {int(instances.pred_classes[i]) for i in here})
            for i in here:
                values[i].append(math.exp(logs[int(instances.pred_classes[i])]))
    return {i: sum(v) / len(v) if v else 1.0 for i, v in values.items()}


def slow_rule(fusion, instances, ranking):
    """The heuristic rule on whole masks, in the order of `ranking` {row: score}."""
    canvas = torch.full(instances.image_size, -1)
    for row in sorted(ranking, key=lambda i: (-round(ranking[i], 9), -float(instances.scores[i]), i)):
        mask = instances.pred_masks[row]
        area, covered = int(mask.sum()), int((mask & (canvas >= 0)).sum())
        if area and 2 * covered <= area:
            canvas[mask & (canvas < 0)] = row
    return canvas


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("order_by", ["ranking", "product"])
def test_order_and_map_equal_the_slow_ones(order_by):
    rng, moved = random.Random(3), 0
    for seed in range(150):
        torch.manual_seed(seed)
        num_things, stride = rng.choice([1, 2, 4]), rng.choice([1, 2, 4, 8])
        size, image_size = rng.choice([((12, 16), (12, 16)), ((12, 16), (24, 32)), ((13, 17), (8, 11))])
        fusion = build(num_things, kernel="1x1", stride=stride, order_by=order_by)
        torch.nn.init.normal_(fusion.srm.branches[0][0].weight, std=2)
        num = rng.choice([0, 1, 2, 4, 9])
        masks = rectangles(rng, size, num)
        masks[: num // 4] = False
        scores = [rng.choice([0.4, 0.5, 0.7, 0.9]) for _ in range(num)]
        instances = instances_of(masks, scores, torch.randint(0, num_things, (num,)))
        sem_seg = flat_sem_seg(size, num_things + NUM_STUFF, image_size)
        with torch.no_grad():
            panoptic, segments = fusion(sem_seg, instances)
            scene = fusion.scene(sem_seg, instances)
            found = fusion.ranking_scores(scene).tolist()
        ranking = slow_ranking(fusion, instances, image_size)
        assert found == pytest.approx([ranking[row] for row in scene.kept], abs=1e-5)
        if order_by == "product":
            ranking = {row: value * float(instances.scores[row]) for row, value in ranking.items()}
        expected = slow_rule(fusion, instances, ranking)
        ours = torch.full(size, -1)
        for s in segments:
            if s["isthing"]:
                ours[panoptic == s["id"]] = s["instance_id"]
                assert s["score"] == float(instances.scores[s["instance_id"]])
        assert torch.equal(ours, expected)
        moved += list(fusion.order(scene)) != scene.kept
    assert moved > 30


def tie_and_person():
    """A person of 6 x 4 pixels of score 0.99, with a tie of two pixels of score 0.66 on it."""
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, 1:7, 2:6] = True
    masks[1, 2:4, 3] = True
    return instances_of(masks, [0.99, 0.66], torch.tensor([0, 1]))


def test_the_tie_is_painted_over_the_person():
    fusion = build(2, kernel="1x1", stride=1)
    conv = fusion.srm.branches[0][0]
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 5.0]])[..., None, None])
    instances, sem_seg = tie_and_person(), flat_sem_seg((8, 8), 4)
    with torch.no_grad():
        person, tie = fusion.ranking_scores(fusion.scene(sem_seg, instances)).tolist()
        _, before = build(2, HeuristicFusion)(sem_seg, instances)
        panoptic, after = fusion(sem_seg, instances)
    alone, together = math.e / (math.e + 1), math.e / (math.e + math.exp(5))
    assert person == pytest.approx((22 * alone + 2 * together) / 24) and tie == pytest.approx(1 - together)
    assert [(s["instance_id"], s["area"]) for s in before if s["isthing"]] == [(0, 24)]
    assert [(s["instance_id"], s["area"], s["score"]) for s in after if s["isthing"]] == [
        (1, 2, pytest.approx(0.66)),
        (0, 22, pytest.approx(0.99)),
    ]
    assert (panoptic == 1).nonzero().tolist() == [[2, 3], [3, 3]]


def test_learns_that_ties_are_in_front_of_persons():
    fusion = build(2, stride=2)
    masks = torch.zeros(2, 32, 32, dtype=torch.bool)
    masks[0, 4:28, 8:24] = True
    masks[1, 8:20, 14:18] = True
    gt = Instances((32, 32), gt_masks=BitMasks(masks), gt_classes=torch.tensor([0, 1]))
    labels = torch.where(masks[1], NUM_STUFF + 1, torch.where(masks[0], NUM_STUFF, 0))[None]
    inputs = FusionTrainingInputs(None, labels, [gt], None, [(32, 32)], None)
    optimizer = torch.optim.SGD(fusion.parameters(), lr=0.1, momentum=0.9)
    for _ in range(30):
        optimizer.zero_grad()
        fusion.losses(inputs)["loss_srm"].backward()
        optimizer.step()
    instances = instances_of(masks, [0.99, 0.66], torch.tensor([0, 1]))
    with torch.no_grad():
        assert [s["instance_id"] for s in fusion(flat_sem_seg((32, 32), 4), instances)[1][:2]] == [1, 0]


@pytest.mark.parametrize("num", [0, 1, 300])
def test_numbers_of_instances(num):
    fusion = build(4)
    masks = rectangles(random.Random(num), (20, 28), num)
    instances = instances_of(masks, torch.rand(num), torch.randint(0, 4, (num,)))
    with torch.no_grad():
        panoptic, segments = fusion(flat_sem_seg((20, 28), 6), instances)
    assert {s["id"] for s in segments} == set(panoptic.unique().tolist()) - {0}
    assert sum(s["area"] for s in segments) == 20 * 28


@pytest.mark.usefixtures("implementation")
def test_all_dropped_empty_masks_and_masks_smaller_than_a_cell():
    fusion, sem_seg = build(2, stride=8), flat_sem_seg((16, 16), 4)
    masks = torch.zeros(3, 16, 16, dtype=torch.bool)
    masks[0, :8] = True
    masks[1, 1, 1] = True  # between the middles of the cells
    instances = instances_of(masks, [0.9, 0.6, 0.6], torch.tensor([0, 1, 1]))
    with torch.no_grad():
        scores = fusion.ranking_scores(fusion.scene(sem_seg, instances)).tolist()
        _, segments = fusion(sem_seg, instances)
        assert scores[0] < 1 and scores[1:] == [1, 1]
        assert [s["instance_id"] for s in segments if s["isthing"]] == [1, 0]
        instances.scores[:] = 0.1
        assert [s["isthing"] for s in fusion(sem_seg, instances)[1]] == [False]


@pytest.mark.usefixtures("implementation")
def test_boxes_on_and_over_the_border():
    """Masks of a mask head, painted where they are."""
    torch.manual_seed(0)
    boxes = torch.tensor([[-5.0, -5, 12, 12], [10, 6, 40, 30], [0, 0, 24, 16], [30, 30, 40, 40], [5, 5, 5, 5]])
    fields = {"scores": torch.full((5,), 0.9), "pred_classes": torch.tensor([0, 1, 2, 0, 1])}
    logits = torch.full((5, 28, 28), 3.0)
    instances = Instances((16, 24), pred_boxes=Boxes(boxes), pred_mask_logits=logits, **fields)
    fusion, sem_seg = build(3, stride=4), flat_sem_seg((16, 24))
    with torch.no_grad():
        panoptic, segments = fusion(sem_seg, instances)
        crops = fusion.scene(sem_seg, instances).crops
        masks = torch.zeros(5, 16, 24, dtype=torch.bool)
        for i, window in enumerate(crops.windows):
            masks[i][window] = crops[i]
        whole = Instances((16, 24), pred_boxes=Boxes(boxes), pred_masks=masks, **fields)
        expected, expected_segments = fusion(sem_seg, whole)
    assert torch.equal(panoptic, expected) and segments == expected_segments
    assert {s["instance_id"] for s in segments if s["isthing"]} >= {0, 1}


def test_one_thing_class_ties_are_broken_by_detection_score():
    """Every probability is 1: the order is that of the heuristic rule, and nothing is contested."""
    fusion, rng = build(1), random.Random(0)
    masks = rectangles(rng, (20, 28), 12)
    instances = instances_of(masks, torch.rand(12) / 2 + 0.5, torch.zeros(12, dtype=torch.int64))
    scene = fusion.scene(flat_sem_seg((20, 28), 3), instances)
    with torch.no_grad():
        assert fusion.ranking_scores(scene).tolist() == [1] * 12 and list(fusion.order(scene)) == scene.kept
    inputs = training_inputs(rng, 1)
    assert fusion.losses(inputs)["loss_srm"].item() == 0


def test_no_stuff_class():
    fusion = build(3, num_stuff=0, stuff_channels_only=True)
    instances = instances_of(rectangles(random.Random(1), (8, 8), 3), [0.9, 0.8, 0.7], torch.tensor([0, 1, 2]))
    with torch.no_grad():
        _, segments = fusion(flat_sem_seg((8, 8), 3), instances)
    assert segments and all(s["isthing"] for s in segments)


def test_all_void_and_no_instance_give_zero_with_gradients():
    fusion, inputs = build(3), training_inputs(random.Random(0), 3)
    inputs.gt_sem_seg.fill_(255)
    for gt in (inputs.gt_instances, [x[:0] for x in inputs.gt_instances]):
        inputs.gt_instances = gt
        fusion.zero_grad()
        loss = fusion.losses(inputs)["loss_srm"]
        loss.backward()
        assert float(loss) == 0 and all(p.grad is not None and not p.grad.any() for p in fusion.parameters())


def test_reads_on_the_host_do_not_grow_with_the_instances():
    def reads(num):
        masks = rectangles(random.Random(num), (12, 16), num)
        instances = instances_of(masks, torch.rand(num) * 0.5 + 0.5, torch.randint(0, 3, (num,)))
        with CountReads() as count, torch.no_grad():
            build(3)(flat_sem_seg((12, 16)), instances)
        return count.number

    assert reads(3) == reads(60)


def test_autocast():
    fusion, inputs = build(3), training_inputs(random.Random(0), 3)
    instances = instances_of(rectangles(random.Random(1), (20, 28), 9), [0.9] * 9, torch.arange(9) % 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = fusion.losses(inputs)["loss_srm"]
        with torch.no_grad():
            fusion(flat_sem_seg((20, 28)), instances)
    loss.backward()
    assert loss.dtype == torch.float32 and loss > 0 and all(torch.isfinite(p.grad).all() for p in fusion.parameters())


class Losses(torch.nn.Module):
    """What DistributedDataParallel calls."""

    def __init__(self):
        super().__init__()
        self.fusion = build(3)

    def forward(self, inputs):
        return sum(self.fusion.losses(inputs).values())


def uncontested(inputs):
    for x in inputs.gt_instances:
        x.gt_classes[:] = 0
    return inputs


def _worker(rank, folder):
    model = DistributedDataParallel(Losses())
    torch.manual_seed(0)
    inputs = training_inputs(random.Random(0), 3)
    loss = model(inputs if rank == 0 else uncontested(inputs))
    loss.backward()
    # DDP raises in the second step if a parameter got no gradient in the first.
    model(uncontested(inputs)).backward()
    torch.save((loss.detach(), [p.grad for p in model.parameters()]), f"{folder}/{rank}.pth")


def test_two_processes_one_without_a_contested_pixel(tmp_path):
    run_in_two_processes(_worker, str(tmp_path))
    (loss, gradients), (nothing, others) = (torch.load(tmp_path / f"{rank}.pth") for rank in range(2))
    assert loss > 0 and nothing == 0
    alone = Losses()
    torch.manual_seed(0)
    alone(training_inputs(random.Random(0), 3)).backward()
    for p, first, second in zip(alone.parameters(), gradients, others, strict=True):
        assert torch.equal(first, second)
        torch.testing.assert_close(first, p.grad / 2)


def test_training_the_module_alone_does_not_run_the_network(monkeypatch):
    cfg = small_cfg(MODEL__PANOPTIC_FUSION__NAME="SpatialRankingFusion")
    records = [example(1), example(2, num_things=0)]
    things = records[0]["instances"]
    things.gt_masks.tensor[:, 10:30, 10:30] = True
    things.gt_classes[:] = torch.tensor([0, 1])
    records[0]["sem_seg"][10:30, 10:30] = 2 + 1
    torch.manual_seed(0)
    model = build_model(cfg).train()
    with EventStorage():
        expected = model(records)["loss_srm"]
    freeze_parts(model, ["backbone", "proposal_generator", "roi_heads", "sem_seg_head"])
    assert {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad} == {"fusion"}
    with monkeypatch.context() as patch, EventStorage():
        patch.setattr(model, "preprocess_image", None)
        losses = model(records)
    assert set(losses) == {"loss_srm"} and losses["loss_srm"] == expected > 0
    losses["loss_srm"].backward()
    model.eval()
    with torch.no_grad():
        assert "panoptic_seg" in model([example(3)])[0]


def test_loss_weight_zero_leaves_the_module_as_it_is():
    fusion = build(3, loss_weight=0)
    assert fusion.losses(None) == {} and not any(p.requires_grad for p in fusion.parameters())


@pytest.mark.parametrize("ontology", ["collapsed", "stuff"])
def test_ontologies_without_thing_classes(ontology):
    with pytest.raises(ConfigError, match=f"ONTOLOGY is '{ontology}'.*LOSS_WEIGHT 0"):
        build(2, ontology=ontology)
    fusion = build(2, ontology=ontology, loss_weight=0)
    with torch.no_grad():
        _, segments = fusion(flat_sem_seg((8, 8), 3 if ontology == "collapsed" else 2), tie_and_person())
    assert any(s["isthing"] for s in segments)


@pytest.mark.parametrize(
    ("key", "value"), [("KERNEL", "7x7"), ("STRIDE", 3), ("LOSS_WEIGHT", -1.0), ("ORDER", "score")]
)
def test_bad_settings_are_named(key, value):
    keys = {"MODEL__PANOPTIC_FUSION__NAME": "SpatialRankingFusion", f"MODEL__PANOPTIC_FUSION__SRM__{key}": value}
    with pytest.raises(ConfigError, match=f"MODEL.PANOPTIC_FUSION.SRM.{key} is {value!r}"):
        build_model(small_cfg(**keys))

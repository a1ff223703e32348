"""Seamless's region proposals: selection and matching against slow loops, the losses, the head."""

import math
import random

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.proposal_generator import build_proposal_generator
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from torch.nn import functional as F
from torchvision.ops import nms

from panoptic_fusion.config.defaults import get_cfg
from panoptic_fusion.errors import ConfigError
from panoptic_fusion.modeling.things import seamless_anchors, seamless_proposals
from panoptic_fusion.modeling.things.seamless_anchors import match_anchors
from panoptic_fusion.modeling.things.seamless_proposals import first_of_nms, nms_threshold, select_proposals


def slow_iou(a, b):
    """IoU of two boxes; None where both have no area."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inter = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
    return inter / union if union else None


def slow_selection(levels, image_size, pre, post, threshold):
    """[(box, logit)] by the text: joint top-N, clip, joint suppression at IoU >= threshold, first M."""
    height, width = image_size
    everything = [(box, logit) for boxes, logits in levels for box, logit in zip(boxes, logits, strict=True)]
    everything.sort(key=lambda item: -item[1])
    kept = []
    for box, logit in everything[:pre]:
        box = [
            min(max(value, 0.0), float(limit)) for value, limit in zip(box, (width, height, width, height), strict=True)
        ]
        ious = [slow_iou(box, other) for other, _ in kept]
        if all(iou is None or iou < threshold for iou in ious):
            kept.append((box, logit))
    return kept[:post]


def random_levels(rng, image_size):
    """Boxes with corners on a grid (exact IoUs, ties, copies), over the border, without area; distinct logits."""
    height, width = image_size
    numbers = iter(rng.sample(range(10**4), 200))
    levels = []
    for _ in range(rng.randint(1, 4)):
        boxes, logits = [], []
        for _ in range(rng.choice([0, 1, 5, 20, 40])):
            x0, y0 = rng.randrange(-10, width + 8, 5), rng.randrange(-10, height + 8, 5)
            w, h = rng.choice([0, 10, 20, 20, 40, 40, 50]), rng.choice([0, 10, 20, 20, 30, 30])
            boxes.append([float(v) for v in (x0, y0, x0 + w, y0 + h)])
            logits.append(next(numbers) / 1000 - 5)
        levels.append((boxes, logits))
    return levels


def test_selection_equals_slow_loops():
    rng = random.Random(0)
    suppressed = without_area = 0
    for _ in range(500):
        size = (rng.randint(10, 60), rng.randint(10, 80))
        levels = random_levels(rng, size)
        pre, post = rng.choice([1, 5, 30, 1000]), rng.choice([1, 3, 10, 1000])
        threshold = rng.choice([0.5, 0.7, 0.25, 1.0])
        unlimited = slow_selection(levels, size, pre, 10**6, threshold)
        expected = unlimited[:post]
        boxes = torch.tensor([b for level, _ in levels for b in level]).reshape(-1, 4)
        logits = torch.tensor([v for _, level in levels for v in level])
        before = boxes.clone()
        found, scores = select_proposals(
            boxes, logits, size, pre_nms_topk=pre, post_nms_topk=post, nms_thresh=threshold
        )
        assert torch.equal(boxes, before)
        assert found.tolist() == [box for box, _ in expected]
        torch.testing.assert_close(scores, torch.tensor([logit for _, logit in expected]))
        suppressed += min(pre, len(boxes)) - len(unlimited)
        without_area += sum(box[0] == box[2] or box[1] == box[3] for box, _ in expected)
    assert suppressed > 500 and without_area > 500


def test_selection_by_hand():
    """Two levels; IoU exactly at the threshold is suppressed; a box outside of the image is kept without an area."""
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 5], [20, 20, 30, 30], [100, 3, 120, 8], [0, 0, 10, 4.9]])
    logits = torch.tensor([4.0, 3.0, 2.0, 1.0, 0.0])
    found, _ = select_proposals(boxes, logits, (50, 50), pre_nms_topk=9, post_nms_topk=9, nms_thresh=0.5)
    assert found.tolist()[:3] == [[0, 0, 10, 10], [20, 20, 30, 30], [50, 3, 50, 8]] and len(found) == 4
    boxes[2, 0], logits[3] = float("nan"), float("inf")
    found, scores = select_proposals(boxes, logits, (50, 50), pre_nms_topk=9, post_nms_topk=9, nms_thresh=0.5)
    assert scores.tolist() == [4.0, 0.0]
    for threshold in (0.5, 0.7, 0.3):
        assert nms_threshold(threshold) < torch.tensor(threshold).item()


def test_the_first_boxes_of_nms(monkeypatch):
    """Equal scores, copies, boxes without an area, few and many overlaps; NMS is never applied to more than needed."""
    sizes = []
    monkeypatch.setattr(seamless_proposals, "nms", lambda boxes, *args: sizes.append(len(boxes)) or nms(boxes, *args))
    generator = torch.Generator().manual_seed(0)
    for trial in range(300):
        num = [0, 1, 7, 60, 400][trial % 5]
        spread = [5.0, 40.0, 1000.0][trial % 3]
        corner = torch.rand(num, 2, generator=generator).mul(spread).round()
        boxes = torch.cat([corner, corner + torch.randint(0, 20, (num, 2), generator=generator)], 1)
        scores = torch.randint(0, num + 1, (num,), generator=generator).float().sort(descending=True).values
        number = [1, 2, 10, 50, 1000][trial // 5 % 5]
        found = first_of_nms(boxes, scores, number, 0.5)
        assert torch.equal(found, nms(boxes, scores, 0.5)[:number]), trial
    sizes.clear()
    places, scores, box = torch.arange(1000)[:, None], torch.arange(1000.0, 0, -1), torch.tensor([0.0, 0, 5, 5])
    assert first_of_nms(places * 10 + box, scores, 50, 0.5).tolist() == list(range(50))
    assert sizes == [100]
    sizes.clear()
    copies = places // 50 * 10 + box  # 20 boxes, 50 times each
    assert first_of_nms(copies, scores, 50, 0.5).tolist() == [*range(0, 1000, 50)]
    assert sizes == [100, 2 + 100, 4 + 200, 8 + 400, 16 + 200]


def slow_matching(anchors, gt_boxes, image_size, low, high):
    height, width = image_size
    labels, matched = [], []
    for a in anchors:
        inside = a[0] >= 0 and a[1] >= 0 and a[2] <= width and a[3] <= height
        ious = [slow_iou(a, g) for g in gt_boxes]
        best = max(ious, default=0.0)
        labels.append(-1 if not inside else 1 if best >= high else 0 if best < low else -1)
        matched.append(ious.index(best) if ious else 0)
    usable = [i for i, a in enumerate(anchors) if a[0] >= 0 and a[1] >= 0 and a[2] <= width and a[3] <= height]
    claims = {}
    for g, box in enumerate(gt_boxes):
        ious = [slow_iou(anchors[i], box) for i in usable]
        if ious and max(ious) > 0:
            claims.setdefault(usable[ious.index(max(ious))], []).append((-max(ious), g))
    for anchor, wishes in claims.items():
        labels[anchor], matched[anchor] = 1, min(wishes)[1]
    return labels, matched


def test_matching_equals_slow_loops(monkeypatch):
    """Corners on a coarse grid: ties between anchors and between boxes, anchors on and over the border."""
    rng = random.Random(1)
    contested = 0
    for trial in range(300):
        monkeypatch.setattr(seamless_anchors, "MAX_IOU_ELEMENTS", rng.choice([1, 64, 2**24]))
        size = (rng.choice([16, 32]), 32)

        def box(largest):
            x0, y0 = rng.randrange(-4, 28, 4), rng.randrange(-4, 28, 4)
            return [x0, y0, x0 + 4 * rng.randint(1, largest), y0 + 4 * rng.randint(1, largest)]

        anchors = [box(4) for _ in range(rng.choice([0, 1, 10, 60]))]
        gt_boxes = [box(8) for _ in range(rng.choice([0, 1, 2, 6]))]
        low, high = rng.choice([(0.3, 0.7), (0.5, 0.5), (0.25, 0.5)])
        labels, matched = match_anchors(
            torch.tensor(anchors, dtype=torch.float32).reshape(-1, 4),
            torch.tensor(gt_boxes, dtype=torch.float32).reshape(-1, 4),
            size,
            low=low,
            high=high,
        )
        expected_labels, expected_matched = slow_matching(anchors, gt_boxes, size, low, high)
        assert labels.tolist() == expected_labels, trial
        for i, label in enumerate(expected_labels):
            if label == 1:
                assert matched[i] == expected_matched[i], trial
        contested += len(gt_boxes) - len({expected_matched[i] for i, x in enumerate(expected_labels) if x == 1})
    assert contested > 20


def test_matching_by_hand():
    """A box without a good anchor gets its best one; of two equal anchors the first; one over the border never."""
    anchors = torch.tensor([[0, 0, 8, 8], [0, 0, 8, 8], [-1, 0, 20, 20], [20, 20, 28, 28], [24, 0, 32, 8]]).float()
    labels, matched = match_anchors(anchors, torch.tensor([[0.0, 0, 4, 4], [20, 20, 28, 27]]), (32, 32))
    assert labels.tolist() == [1, 0, -1, 1, 0] and matched[[0, 3]].tolist() == [0, 1]


def config(**keys) -> CfgNode:
    cfg = get_cfg()
    cfg.MODEL.PROPOSAL_GENERATOR.NAME, cfg.MODEL.RPN.HEAD_NAME = "SeamlessRPN", "SeamlessRPNHead"
    cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3"]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES, cfg.MODEL.ANCHOR_GENERATOR.OFFSET = [[16], [32]], 0.5
    cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS = [[1.0, 0.5, 2.0]]
    cfg.MODEL.RPN.SMOOTH_L1_BETA = 1 / 9
    cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE = 16
    cfg.merge_from_list([x for k, v in keys.items() for x in ("MODEL." + k.replace("__", "."), v)])
    return cfg


def build(**keys):
    torch.manual_seed(0)
    shapes = {"p2": ShapeSpec(channels=16, stride=4), "p3": ShapeSpec(channels=16, stride=8)}
    return build_proposal_generator(config(**keys), shapes)


def inputs(num_images=2, size=(60, 90)):
    images = ImageList(torch.zeros(num_images, 3, 64, 96), [size] * num_images)
    features = {"p2": torch.randn(num_images, 16, 16, 24), "p3": torch.randn(num_images, 16, 8, 12)}
    return images, features


def truth(boxes, size=(60, 90)):
    return Instances(size, gt_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)))


def test_anchors_are_those_of_the_paper():
    """Centre (i + .5) x stride, sides stride x scale x sqrt(ratio) and its inverse, order y, x, ratio."""
    rpn = build(ANCHOR_GENERATOR__ASPECT_RATIOS=[[0.2, 0.5, 1.0, 2.0, 5.0]])
    _, features = inputs()
    for anchors, stride, size in zip(rpn.anchor_generator(list(features.values())), (4, 8), (16, 32), strict=True):
        height, width = features["p2" if stride == 4 else "p3"].shape[-2:]
        expected = []
        for i in range(height):
            for j in range(width):
                for ratio in (0.2, 0.5, 1.0, 2.0, 5.0):
                    y, x = (i + 0.5) * stride, (j + 0.5) * stride
                    h, w = size * math.sqrt(ratio), size / math.sqrt(ratio)
                    expected.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
        torch.testing.assert_close(anchors.tensor, torch.tensor(expected), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("norm", ["InPlaceABN", "GN"])
def test_head_and_proposals_equal_plain_pytorch(norm):
    """The whole branch in inference, from features to proposals, with a batch norm of negative weights."""
    rpn = build(RPN__NORM=norm, RPN__PRE_NMS_TOPK_TEST=300, RPN__POST_NMS_TOPK_TEST=40, RPN__NMS_THRESH=0.7).eval()
    with torch.no_grad():
        for p in rpn.parameters():
            p.normal_(std=0.2)
        if norm == "InPlaceABN":
            rpn.rpn_head.conv.norm.running_mean.normal_()
            rpn.rpn_head.conv.norm.running_var.uniform_(0.5, 2)
    images, features = inputs()
    params = rpn.rpn_head.state_dict()
    logits, boxes = [], []
    anchors = rpn.anchor_generator(list(features.values()))
    for x, level_anchors in zip(features.values(), anchors, strict=True):
        y = F.conv2d(x, params["conv.weight"], padding=1)
        weight, bias = params["conv.norm.weight"], params["conv.norm.bias"]
        if norm == "GN":
            y = F.group_norm(y, 16, weight, bias, 1e-5)
        else:
            mean, var = params["conv.norm.running_mean"], params["conv.norm.running_var"]
            scale = (weight.abs() + 1e-5) / (var + 1e-5).sqrt()
            y = (y - mean[:, None, None]) * scale[:, None, None] + bias[:, None, None]
        y = torch.where(y > 0, y, 0.01 * y)
        score = F.conv2d(y, params["objectness_logits.weight"], params["objectness_logits.bias"])
        delta = F.conv2d(y, params["anchor_deltas.weight"], params["anchor_deltas.bias"])
        n, a, h, w = score.shape
        logits.append(score.permute(0, 2, 3, 1).reshape(n, -1))
        delta = delta.view(n, a, 4, h, w).permute(0, 3, 4, 1, 2).reshape(n, -1, 4)
        corner, side = level_anchors.tensor[:, :2], level_anchors.tensor[:, 2:] - level_anchors.tensor[:, :2]
        centre = corner + side / 2 + delta[..., :2] * side
        half = side * delta[..., 2:].clamp(max=math.log(1000 / 16)).exp() / 2
        boxes.append(torch.cat([centre - half, centre + half], dim=2))
    proposals, losses = rpn(images, features)
    assert losses == {}
    for i, found in enumerate(proposals):
        levels = [(b[i].tolist(), s[i].tolist()) for b, s in zip(boxes, logits, strict=True)]
        expected = slow_selection(levels, (60, 90), 300, 40, 0.7)
        assert found.image_size == (60, 90)
        torch.testing.assert_close(
            found.proposal_boxes.tensor, torch.tensor([b for b, _ in expected]), atol=1e-3, rtol=1e-4
        )
        torch.testing.assert_close(
            found.objectness_logits, torch.tensor([s for _, s in expected]), atol=1e-4, rtol=1e-4
        )


def test_losses_are_sums_over_the_number_sampled():
    rpn = build().train()
    images, features = inputs(3)
    gt = [truth([[4, 4, 30, 40], [50, 10, 80, 50]]), truth([]), truth([[10, 8, 27, 24]])]
    anchors = Boxes.cat(rpn.anchor_generator(list(features.values()))).tensor
    drawn = []
    original = rpn.label_and_sample_anchors
    rpn.label_and_sample_anchors = lambda *args: drawn.append(original(*args)) or drawn[-1]
    with EventStorage():
        _, losses = rpn(images, features, gt)
    labels, boxes = drawn[0]
    score, delta = rpn.rpn_head(list(features.values()))
    score = torch.cat([x.permute(0, 2, 3, 1).flatten(1) for x in score], 1)
    delta = torch.cat([x.unflatten(1, (3, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3) for x in delta], 1)
    bce = location = count = 0
    for i in range(3):
        positive, negative = [(labels[i] == k).nonzero()[:, 0].tolist() for k in (1, 0)]
        assert len(positive) + len(negative) == 16 and len(positive) == (0 if i == 1 else len(positive)) <= 8
        count += 16
        bce += sum(F.softplus(-score[i, k]) for k in positive) + sum(F.softplus(score[i, k]) for k in negative)
        for k in positive:
            a, g = anchors[k], boxes[i][k]
            side, gt_side = a[2:] - a[:2], g[2:] - g[:2]
            target = torch.cat([(g[:2] + g[2:] - a[:2] - a[2:]) / 2 / side, (gt_side / side).log()])
            error = (delta[i, k] - target).abs()
            location += torch.where(error < 1 / 9, 0.5 * 9 * error**2, error - 0.5 / 9).sum()  # sigma = 3
    torch.testing.assert_close(losses["loss_rpn_cls"], bce / count)
    torch.testing.assert_close(losses["loss_rpn_loc"], location / count)


def test_training_without_things_and_with_diverged_weights():
    rpn = build().train()
    images, features = inputs()
    with EventStorage():
        proposals, losses = rpn(images, features, [truth([]), truth([])])
        sum(losses.values()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in rpn.parameters())
        assert losses["loss_rpn_loc"] == 0 and len(proposals) == 2
        # no anchor inside of a tiny image: nothing is sampled
        tiny = ImageList(torch.zeros(2, 3, 64, 96), [(5, 5)] * 2)
        _, losses = rpn(tiny, features, [truth([[0, 0, 3, 3]], (5, 5))] * 2)
        assert losses["loss_rpn_cls"] == losses["loss_rpn_loc"] == 0
        with torch.no_grad():
            rpn.rpn_head.objectness_logits.bias.fill_(float("nan"))
        with pytest.raises(FloatingPointError, match="diverged"):
            rpn(images, features, [truth([]), truth([])])


@pytest.mark.parametrize(
    "key, value",
    [("RPN__BBOX_REG_LOSS_TYPE", "giou"), ("PROPOSAL_GENERATOR__MIN_SIZE", 4), ("RPN__IOU_LABELS", [0, 0, 1])],
)
def test_config_errors_name_the_key(key, value):
    with pytest.raises(ConfigError, match=key.replace("__", r"\.")):
        build(**{key: value})

"""Seamless's RoI heads: sampling at bin centres, box and mask head in both norm modes, what is trained and detected."""

import math
import random

import pytest
import torch
import torch.distributed as dist
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import build_roi_heads
from detectron2.structures import BitMasks, Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from torch.nn import functional as F
from two_processes import run_in_two_processes

from panoptic_fusion.config.defaults import config_root, get_cfg
from panoptic_fusion.errors import ConfigError
from panoptic_fusion.layers import InPlaceABN
from panoptic_fusion.modeling.things import SeamlessBoxHead, SeamlessMaskHead
from panoptic_fusion.modeling.things.roi_heads import PanopticROIHeads
from panoptic_fusion.modeling.things.seamless_box_head import SeamlessBoxPredictor
from panoptic_fusion.modeling.things.seamless_pooler import SeamlessROIPooler
from panoptic_fusion.modeling.things.seamless_roi_heads import SeamlessROIHeads

STRIDES = [4, 8, 16, 32]


def slow_pooling(features, box, image, size):
    """(C, size, size) by the text: the level's rule, centres of bins, indices (p - .5) / stride clamped, bilinear."""
    x0, y0, x1, y1 = box
    level = math.floor(4 + math.log2(math.sqrt((x1 - x0) * (y1 - y0)) / 224 + 1e-8))
    level = min(max(level, 2), 5) - 2
    x, stride = features[level][image], STRIDES[level]
    height, width = x.shape[-2:]
    result = torch.zeros(x.shape[0], size, size)
    for i in range(size):
        for j in range(size):
            v = ((y0 + (i + 0.5) / size * (y1 - y0)) - 0.5) / stride
            u = ((x0 + (j + 0.5) / size * (x1 - x0)) - 0.5) / stride
            v, u = min(max(v, 0), height - 1), min(max(u, 0), width - 1)
            r, c = min(int(v), height - 2), min(int(u), width - 2)
            a, b = v - r, u - c
            result[:, i, j] = (1 - a) * ((1 - b) * x[:, r, c] + b * x[:, r, c + 1])
            result[:, i, j] += a * ((1 - b) * x[:, r + 1, c] + b * x[:, r + 1, c + 1])
    return result


def test_sampling_equals_slow_loops():
    torch.manual_seed(0)
    rng = random.Random(0)
    height, width = 128, 192
    features = [torch.randn(2, 3, height // s, width // s) for s in STRIDES]
    pooler = SeamlessROIPooler(7, STRIDES)
    boxes = [[[0.0, 0, width, height], [0, 0, 1, 1], [190.5, 126.5, 192, 128], [5, 5, 5, 5], [3, 3, 90, 3]], []]
    for i in range(2):
        for _ in range(20):
            x0, y0 = rng.uniform(0, width - 1), rng.uniform(0, height - 1)
            boxes[i].append([x0, y0, rng.uniform(x0, width), rng.uniform(y0, height)])
    pooled = pooler(features, [Boxes(torch.tensor(b)) for b in boxes])
    expected = [
        slow_pooling(features, b, i, 7) if b[2] > b[0] and b[3] > b[1] else slow_pooling_at_p2(features, b, i, 7)
        for i in range(2)
        for b in torch.tensor(boxes[i]).tolist()
    ]
    torch.testing.assert_close(pooled, torch.stack(expected), atol=2e-4, rtol=1e-4)
    assert pooler(features, [Boxes(torch.zeros(0, 4))] * 2).shape == (0, 3, 7, 7)


def slow_pooling_at_p2(features, box, image, size):
    """The same for a box without an area: on the finest level."""
    tiny = [box[0] - 1e-9, box[1] - 1e-9, box[2] + 1e-9, box[3] + 1e-9]
    return slow_pooling(features, tiny, image, size)


def test_half_precision_features_keep_the_coordinates():
    x = torch.linspace(0, 1, 512).expand(1, 1, 8, 512)
    boxes = [Boxes(torch.tensor([[2001.3, 4.0, 2031.3, 20.0]]))]
    pooler = SeamlessROIPooler(14, [4])
    exact, half = pooler([x], boxes), pooler([x.half()], boxes)
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), exact, atol=1e-3, rtol=0)


def plain_norm(y, params, prefix, norm):
    """Norm and LeakyReLU .01 from a state dict, in evaluation."""
    shape = [1, -1] + [1] * (y.dim() - 2)
    weight, bias = params[prefix + ".weight"], params[prefix + ".bias"]
    if norm == "GN":
        groups = y.reshape(len(y), 16, -1)
        mean, var = groups.mean(-1, keepdim=True), groups.var(-1, correction=0, keepdim=True)
        y = ((groups - mean) / (var + 1e-5).sqrt()).view_as(y) * weight.view(shape) + bias.view(shape)
    else:
        mean, var = params[prefix + ".running_mean"].view(shape), params[prefix + ".running_var"].view(shape)
        y = (y - mean) / (var + 1e-5).sqrt() * (weight.abs() + 1e-5).view(shape) + bias.view(shape)
    return torch.where(y > 0, y, 0.01 * y)


def randomise(module):
    with torch.no_grad():
        for name, value in module.state_dict().items():
            value.uniform_(0.5, 2) if name.endswith("running_var") else value.normal_(std=0.3)


@pytest.mark.parametrize("norm", ["InPlaceABN", "GN"])
def test_box_head_equals_plain_pytorch(norm):
    torch.manual_seed(0)
    head = SeamlessBoxHead(input_shape=ShapeSpec(channels=6, height=14, width=14), fc_dim=32, norm=norm).eval()
    randomise(head)
    assert head.output_shape == ShapeSpec(channels=32)
    params = head.state_dict()
    assert ("norm1.running_mean" in params) == (norm == "InPlaceABN") and "fc1.bias" not in params
    x = torch.randn(9, 6, 14, 14)
    y = x.view(9, 6, 7, 2, 7, 2).mean((3, 5)).reshape(9, 6 * 49)
    y = plain_norm(y @ params["fc1.weight"].T, params, "norm1", norm)
    y = plain_norm(y @ params["fc2.weight"].T, params, "norm2", norm)
    torch.testing.assert_close(head(x), y, atol=1e-4, rtol=1e-4)
    assert head(x[:0]).shape == head.train()(x[:0]).shape == (0, 32)


@pytest.mark.parametrize("norm", ["InPlaceABN", "GN"])
def test_mask_head_equals_plain_pytorch(norm):
    torch.manual_seed(0)
    head = SeamlessMaskHead(
        input_shape=ShapeSpec(channels=6, height=14, width=14), num_classes=3, conv_dims=[16, 32, 16], norm=norm
    ).eval()
    randomise(head)
    params = head.state_dict()
    x = y = torch.randn(5, 6, 14, 14)
    for i in (1, 2):
        y = F.conv2d(y, params[f"mask_fcn{i}.weight"], padding=1)
        y = plain_norm(y, params, f"mask_fcn{i}.norm", norm)
    up = torch.zeros(5, 16, 28, 28)  # a deconvolution of stride 2 with a 2x2 kernel: one matrix for each corner
    for i in range(2):
        for j in range(2):
            up[:, :, i::2, j::2] = torch.einsum("nchw,cd->ndhw", y, params["deconv.weight"][:, :, i, j])
    y = plain_norm(up, params, "deconv_norm", norm)
    y = F.conv2d(y, params["predictor.weight"], params["predictor.bias"])
    torch.testing.assert_close(head.layers(x), y, atol=1e-4, rtol=1e-4)
    assert head.layers(x[:0]).shape == (0, 3, 28, 28)


def build(norm="InPlaceABN", **changed):
    cfg = get_cfg()
    cfg.MODEL.ROI_HEADS.NAME = "SeamlessROIHeads"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 16
    for head, name in ((cfg.MODEL.ROI_BOX_HEAD, "SeamlessBoxHead"), (cfg.MODEL.ROI_MASK_HEAD, "SeamlessMaskHead")):
        head.NAME, head.NORM, head.POOLER_RESOLUTION = name, norm, 14
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM, cfg.MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA = 32, 1.0
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM, cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 16, 1
    cfg.merge_from_list([x for item in changed.items() for x in item])
    torch.manual_seed(0)
    return build_roi_heads(cfg, {f"p{i}": ShapeSpec(channels=16, stride=2**i) for i in (2, 3, 4, 5)})


@pytest.mark.parametrize("norm", ["", "BN", "SyncBN", "FrozenBN", "LN"])
@pytest.mark.parametrize("key", ["MODEL.ROI_BOX_HEAD.NORM", "MODEL.ROI_MASK_HEAD.NORM"])
def test_norms_that_do_not_take_any_number_of_regions(key, norm):
    """Two dimensions, a single region, none: other norms fail, or broadcast to another shape."""
    with pytest.raises(ConfigError, match=f"^{key} is '{norm}': use one of 'InPlaceABN', 'GN'$"):
        build(**{key: norm})


@pytest.mark.parametrize("norm", ["InPlaceABN", "GN"])
@pytest.mark.parametrize("regions", [0, 1, 2, 5])
def test_norms_take_any_number_of_regions(norm, regions):
    heads = build(norm).train()
    x = torch.randn(regions, 16, 14, 14)
    for y, shape in ((heads.box_head(x), (regions, 32)), (heads.mask_head.layers(x), (regions, 3, 28, 28))):
        assert y.shape == shape and y.isfinite().all()
        y.sum().backward()
    assert all(p.grad.isfinite().all() for part in (heads.box_head, heads.mask_head) for p in part.parameters())


def batch(num_things=(2, 0), size=(64, 96), seed=0):
    """Images, features, 20 proposals an image (some without an area) and targets."""
    generator = torch.Generator().manual_seed(seed)
    num = len(num_things)
    images = ImageList(torch.zeros(num, 3, *size), [size] * num)
    features = {
        f"p{i}": torch.randn(num, 16, size[0] // 2**i, size[1] // 2**i, generator=generator) for i in (2, 3, 4, 5)
    }
    proposals, targets = [], []
    for things in num_things:
        corner = torch.rand(20, 2, generator=generator) * 40
        boxes = torch.cat([corner, corner + torch.rand(20, 2, generator=generator) * 24], 1)
        boxes[:3, 2] = boxes[:3, 0]
        proposals.append(Instances(size, proposal_boxes=Boxes(boxes), objectness_logits=torch.zeros(20)))
        masks = torch.zeros(things, *size, dtype=torch.bool)
        for i in range(things):
            masks[i, 4 + 8 * i : 30 + 8 * i, 10 : 40 + 8 * i] = True
        gt = Instances(size, gt_classes=torch.arange(things) % 3, gt_masks=BitMasks(masks))
        gt.gt_boxes = gt.gt_masks.get_bounding_boxes()
        targets.append(gt)
    return images, features, proposals, targets


def test_an_image_without_things_gives_no_regions():
    heads = build().train()
    images, features, proposals, targets = batch((2, 0))
    with EventStorage():
        sampled = heads.label_and_sample_proposals(proposals, targets)
    assert len(sampled[0]) == 16 and len(sampled[1]) == 0
    assert (sampled[0].gt_classes < 3).sum() <= 4 and len(proposals[1]) == 20
    with EventStorage():
        foreground, losses = heads(images, features, proposals, targets)
        sum(losses.values()).backward()
    assert len(foreground[0]) and not len(foreground[1]) and foreground[0].mask_logits.shape[1:] == (28, 28)


@pytest.mark.parametrize("norm", ["InPlaceABN", "GN"])
def test_a_batch_without_things(norm):
    """All losses are 0, all parameters get a gradient (of 0), running statistics stay."""
    heads = build(norm).train()
    images, features, proposals, targets = batch((0, 0))
    before = {k: v.clone() for k, v in heads.state_dict().items()}
    with EventStorage():
        _, losses = heads(images, features, proposals, targets)
    assert set(losses) == {"loss_cls", "loss_box_reg", "loss_mask"} and all(v == 0 for v in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and not p.grad.any() for p in heads.parameters())
    assert all(torch.equal(v, before[k]) for k, v in heads.state_dict().items())


def norm_in_training(y, params, prefix):
    """In-place ABN by the batch: the result, and what one step makes of the running mean (0) and variance (1)."""
    dims, shape = (0, 2, 3), (1, -1, 1, 1)
    mean, var = y.mean(dims), y.var(dims, correction=0)
    scaled = (y - mean.view(shape)) / (var.view(shape) + 1e-5).sqrt()
    scaled = scaled * (params[f"{prefix}.weight"].abs() + 1e-5).view(shape) + params[f"{prefix}.bias"].view(shape)
    return torch.where(scaled > 0, scaled, 0.01 * scaled), 0.1 * mean, 0.9 + 0.1 * y.var(dims, correction=1)


@pytest.mark.parametrize("change", [{}, {"MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 7}])
@pytest.mark.parametrize("on_pred_boxes", [False, True])
def test_shared_pooling_equals_pooling_twice(change, on_pred_boxes, monkeypatch):
    """Losses and gradients of parameters and features; poolers that differ and predicted boxes pool twice."""
    on_all = {"MODEL.ROI_MASK_HEAD.RUN_ON_ALL_REGIONS": True, "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES": on_pred_boxes}
    calls = []
    pool = SeamlessROIPooler.forward
    monkeypatch.setattr(SeamlessROIPooler, "forward", lambda *args: calls.append(1) or pool(*args))
    results = []
    for function in (SeamlessROIHeads.train_on_all_regions, PanopticROIHeads.train_on_all_regions):
        heads = build(**on_all, **change).double().train()
        monkeypatch.setattr(SeamlessROIHeads, "train_on_all_regions", function)
        images, features, proposals, targets = batch((2, 1))
        features = {name: x.double().requires_grad_() for name, x in features.items()}
        torch.manual_seed(0)
        with EventStorage():
            _, losses = heads(images, features, proposals, targets)
        sum(losses.values()).backward()
        gradients = [x.grad for x in (*heads.parameters(), *features.values())]
        results.append([*losses.values(), *gradients])
    assert len(calls) == (4 if on_pred_boxes or change else 3)
    for shared, twice in zip(*results, strict=True):
        torch.testing.assert_close(shared, twice, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("on_all", [True, False])
def test_mask_head_in_training_equals_plain_pytorch(on_all, monkeypatch):
    """One step: the statistics are those of all sampled regions (as published) or of the positive ones, the loss is the
    one of the positive ones."""
    heads = build(**{"MODEL.ROI_MASK_HEAD.RUN_ON_ALL_REGIONS": on_all}).train()
    params = {k: v.clone() for k, v in heads.mask_head.state_dict().items()}
    images, features, proposals, targets = batch((2, 1))
    sampled = []
    sample = heads.label_and_sample_proposals
    monkeypatch.setattr(heads, "label_and_sample_proposals", lambda *args: sampled.extend(sample(*args)) or sampled)
    with EventStorage():
        foreground, losses = heads(images, features, proposals, targets)
    positive = torch.cat([x.gt_classes for x in sampled]) < 3
    assert 0 < positive.sum() < len(positive)

    pooled = heads.mask_pooler([features[f"p{i}"] for i in (2, 3, 4, 5)], [x.proposal_boxes for x in sampled])
    y = F.conv2d(pooled if on_all else pooled[positive], params["mask_fcn1.weight"], padding=1)
    y, mean, var = norm_in_training(y, params, "mask_fcn1.norm")
    close = {"atol": 1e-5, "rtol": 1e-4}
    torch.testing.assert_close(heads.mask_head.mask_fcn1.norm.running_mean, mean, **close)
    torch.testing.assert_close(heads.mask_head.mask_fcn1.norm.running_var, var, **close)
    y = F.conv_transpose2d(y, params["deconv.weight"], stride=2)
    y, mean, var = norm_in_training(y, params, "deconv_norm")
    torch.testing.assert_close(heads.mask_head.deconv_norm.running_mean, mean, **close)
    torch.testing.assert_close(heads.mask_head.deconv_norm.running_var, var, **close)
    y = F.conv2d(y, params["predictor.weight"], params["predictor.bias"])
    y = y[positive] if on_all else y
    classes = torch.cat([x.gt_classes for x in sampled])[positive]
    y = torch.stack([mask[c] for mask, c in zip(y, classes, strict=True)])
    boxes = [x.proposal_boxes.tensor[x.gt_classes < 3] for x in sampled]
    masks = [x.gt_masks[x.gt_classes < 3].crop_and_resize(b, 28) for x, b in zip(sampled, boxes, strict=True)]
    torch.testing.assert_close(losses["loss_mask"], F.binary_cross_entropy_with_logits(y, torch.cat(masks).float()))
    torch.testing.assert_close(torch.cat([x.mask_logits for x in foreground]), y, atol=1e-4, rtol=1e-4)


def test_the_seamless_configs_follow_the_published_code():
    assert not get_cfg().MODEL.ROI_MASK_HEAD.RUN_ON_ALL_REGIONS
    for path in (x for x in config_root().glob("*/*.yaml") if x.parent.name != "ablations"):
        cfg = get_cfg()
        cfg.merge_from_file(str(path))
        head = cfg.MODEL.ROI_MASK_HEAD
        assert head.RUN_ON_ALL_REGIONS == (head.NAME == "SeamlessMaskHead"), path


def test_inference_shapes():
    heads = build().eval()
    images, features, proposals, _ = batch((1, 1, 1))
    proposals[1] = proposals[1][:0]
    heads.box_predictor.test_score_thresh = 0.0
    instances, losses = heads(images, features, proposals, None)
    assert losses == {} and len(instances) == 3 and len(instances[0]) and not len(instances[1])
    for x in instances:
        assert x.pred_mask_logits.shape == (len(x), 28, 28)
        assert x.pred_boxes.nonempty().all() and (x.pred_classes < 3).all()


def slow_detections(probs, boxes, size, score_thresh, nms_thresh, topk):
    """[(score, class, box)]: clip, score > thresh, drop boxes without area, NMS of each class (>=), the best."""
    found = []
    for c in range(probs.shape[1] - 1):
        candidates = []
        for score, box in zip(probs[:, c].tolist(), boxes[:, c].tolist(), strict=True):
            box = [min(max(v, 0.0), float(m)) for v, m in zip(box, (size[1], size[0]) * 2, strict=True)]
            if score > score_thresh and box[2] > box[0] and box[3] > box[1]:
                candidates.append((score, c, box))
        kept = []
        for item in sorted(candidates, key=lambda item: -item[0]):
            overlaps = []
            for _, _, other in kept:
                w = min(item[2][2], other[2]) - max(item[2][0], other[0])
                h = min(item[2][3], other[3]) - max(item[2][1], other[1])
                inter = max(w, 0) * max(h, 0)
                areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (item[2], other)]
                overlaps.append(inter / (sum(areas) - inter))
            if all(o < nms_thresh for o in overlaps):
                kept.append(item)
        found += kept
    return sorted(found, key=lambda item: -item[0])[:topk]


def test_detections_equal_slow_loops():
    rng = random.Random(0)
    torch.manual_seed(0)
    empty = 0
    for _ in range(60):
        threshold, topk = rng.choice([0.5, 0.3]), rng.choice([1, 5, 100])
        predictor = SeamlessBoxPredictor(
            ShapeSpec(channels=4),
            box2box_transform=Box2BoxTransform((10.0, 10.0, 5.0, 5.0)),
            num_classes=2,
            test_score_thresh=0.05,
            test_nms_thresh=threshold,
            test_topk_per_image=topk,
        )
        size = (rng.randint(20, 50), rng.randint(20, 50))
        num = rng.choice([0, 1, 5, 25])
        corner = torch.randint(-4, 10, (num, 2, 2)) * 5
        boxes = torch.cat([corner, corner + torch.randint(0, 6, (num, 2, 2)) * 5], 2).float()
        probs = torch.rand(num, 3).softmax(1) * torch.randint(0, 2, (num, 3))
        predictor.predict_boxes = lambda *_, b=boxes: [b.flatten(1)]
        predictor.predict_probs = lambda *_, p=probs: [p]
        (found,), (rows,) = predictor.inference(None, [Instances(size)])
        expected = slow_detections(probs, boxes, size, 0.05, threshold, topk)
        pairs = zip(found.scores.tolist(), found.pred_classes.tolist(), found.pred_boxes.tensor.tolist(), strict=True)
        assert list(pairs) == expected
        assert [probs[r, c].item() for r, c in zip(rows, found.pred_classes, strict=True)] == found.scores.tolist()
        empty += int(((boxes[..., 2] == boxes[..., 0]) & (probs[:, :2] > 0.05)).sum())
    assert empty > 50


def test_initialisation_of_the_predictor():
    torch.manual_seed(0)
    predictor = build().box_predictor
    for layer, gain in ((predictor.cls_score, 0.01), (predictor.bbox_pred, 0.001)):
        fan = sum(layer.weight.shape)
        assert layer.weight.std().item() == pytest.approx(gain * math.sqrt(2 / fan), rel=0.3)
        assert not layer.bias.any()


def _train_on_two_ranks(rank: int) -> None:
    heads = build().train()
    images, features, proposals, targets = batch((2,) if rank == 0 else (0,), seed=rank)
    with EventStorage():
        _, losses = heads(images, features, proposals, targets)
    sum(losses.values()).backward()
    abn = [m for m in heads.modules() if isinstance(m, InPlaceABN)]
    means = torch.cat([m.running_mean for m in abn])
    others = [torch.zeros_like(means) for _ in range(2)]
    dist.all_gather(others, means)
    assert means.any() and torch.equal(*others), "the ranks share their statistics"
    assert (losses["loss_cls"] == 0) == (rank == 1)


def test_two_processes_of_which_one_has_no_things():
    """No deadlock in the synchronised norms, and the same running statistics on both."""
    run_in_two_processes(_train_on_two_ranks)

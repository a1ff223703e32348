"""MODEL.BOX_CONVENTION "inclusive" against slow loops over boxes that name their last pixel (facts 1.4 and 4)."""

import itertools
import math
import random

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.proposal_generator import RPN, build_proposal_generator
from detectron2.structures import Boxes, ImageList, Instances

from panoptic_fusion import get_cfg, resolve_config
from panoptic_fusion.config.read import read_config
from panoptic_fusion.errors import ConfigError
from panoptic_fusion.modeling.things.box_convention import InclusiveBoxPredictor, clip_to_pixels
from tests.modeling.test_roi_heads import build_heads, heads_config

SIZE = (96, 128)


def bilinear(x, v, u):
    """(C,) at row v, column u of x (C, H, W), as RoIAlign reads it."""
    height, width = x.shape[1:]
    if v < -1 or v > height or u < -1 or u > width:
        return torch.zeros(len(x))
    v, u = max(v, 0.0), max(u, 0.0)
    r, c = min(int(v), height - 1), min(int(u), width - 1)
    v, u = (float(r) if r == height - 1 else v), (float(c) if c == width - 1 else u)
    r1, c1, a, b = min(r + 1, height - 1), min(c + 1, width - 1), v - r, u - c
    top, bottom = (1 - b) * x[:, r, c] + b * x[:, r, c1], (1 - b) * x[:, r1, c] + b * x[:, r1, c1]
    return (1 - a) * top + a * bottom


def published_pooling(features, box, size):
    """RoIAlign that is not aligned, 2 x 2 samples a bin, sides of at least 1, of an inclusive box on its level."""
    x1, y1, x2, y2 = box
    level = math.floor(2 + math.log2(math.sqrt((x2 - x1 + 1) * (y2 - y1 + 1)) / 224 + 1e-6))
    level = min(max(level, 0), len(features) - 1)
    scale = 1 / 2 ** (level + 2)
    width, height = max((x2 - x1) * scale, 1.0), max((y2 - y1) * scale, 1.0)
    result = torch.zeros(features[level].shape[0], size, size)
    for i, j in itertools.product(range(size), repeat=2):
        for di, dj in itertools.product((0.25, 0.75), repeat=2):
            v, u = y1 * scale + (i + di) * height / size, x1 * scale + (j + dj) * width / size
            result[:, i, j] += bilinear(features[level], v, u) / 4
    return result


def inclusive_heads(**changes):
    cfg = heads_config()
    cfg.MODEL.ROI_BOX_HEAD.POOLER_TYPE = cfg.MODEL.ROI_MASK_HEAD.POOLER_TYPE = "ROIAlign"
    cfg.MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO = cfg.MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO = 2
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 7
    cfg.MODEL.BOX_CONVENTION = changes.pop("convention", "inclusive")
    return build_heads(cfg).eval()


def test_both_poolers_read_up_to_the_last_pixel():
    rng = random.Random(0)
    torch.manual_seed(0)
    height, width = 160, 256
    features = [torch.randn(3, height // s, width // s) for s in (4, 8)]
    boxes = [(5.0, 7.0, 5.0, 7.0), (0.0, 0.0, 255.0, 159.0), (255.0, 159.0, 255.0, 159.0)]
    # Those of 112 pixels are on the second level only because of the pixel that the convention adds.
    boxes += [(10.0, 10.0, 121.0, 121.0), (10.0, 10.0, 120.5, 121.0)]
    for _ in range(20):
        x1, y1 = rng.uniform(0, width - 2), rng.uniform(0, height - 2)
        boxes.append((x1, y1, rng.uniform(x1, width - 1), rng.uniform(y1, height - 1)))
    ours = Boxes(torch.tensor(boxes) + torch.tensor([0.0, 0, 1, 1]))
    heads, plain = inclusive_heads(), inclusive_heads(convention="exclusive")
    for name, size in (("box_pooler", 7), ("mask_pooler", 14)):
        expected = torch.stack([published_pooling(features, box, size) for box in boxes])
        found = getattr(heads, name)([x[None] for x in features], [ours])
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)
        assert not torch.allclose(getattr(plain, name)([x[None] for x in features], [ours]), expected, atol=0.1)


def clipped_pixels(box, size):
    """An exclusive box whose first and last pixels are clipped to (w - 1, h - 1) by the text."""
    x1, y1, x2, y2 = box[0], box[1], box[2] - 1, box[3] - 1
    x1, x2 = (min(max(v, 0), size[1] - 1) for v in (x1, x2))
    y1, y2 = (min(max(v, 0), size[0] - 1) for v in (y1, y2))
    return [x1, y1, x2 + 1, y2 + 1]


def test_clipping():
    torch.manual_seed(1)
    boxes = torch.randint(-40, 170, (500, 2, 2)).sort(dim=1).values.flatten(1).float()
    boxes[:250] += torch.rand(250, 4).sort(dim=1).values
    expected = torch.tensor([clipped_pixels(box, SIZE) for box in boxes.tolist()])
    assert torch.equal(clip_to_pixels(boxes, SIZE), expected)
    outside = ((boxes[:, 2:] - boxes[:, :2]).amin(1) >= 1) & ((boxes[:, 0] >= SIZE[1]) | (boxes[:, 3] <= 0))
    sides = clip_to_pixels(boxes[outside], SIZE)
    assert outside.sum() > 20 and ((sides[:, 2:] - sides[:, :2]).amin(1) >= 1).all()
    odd = clip_to_pixels(torch.tensor([[math.nan, math.inf, 3, 4]]), SIZE)
    assert odd.isfinite().tolist() == [[False, False, True, True]]


def slow_nms(boxes, scores, thresh):
    """Inclusive boxes: sides x2 - x1 + 1."""
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        x1, y1, x2, y2 = boxes[i]
        for k in kept:
            a1, b1, a2, b2 = boxes[k]
            inter = max(min(x2, a2) - max(x1, a1) + 1, 0) * max(min(y2, b2) - max(y1, b1) + 1, 0)
            areas = (x2 - x1 + 1) * (y2 - y1 + 1) + (a2 - a1 + 1) * (b2 - b1 + 1)
            if inter / (areas - inter) > thresh:
                break
        else:
            kept.append(i)
    return kept


def build_rpn(convention):
    cfg = get_cfg()
    cfg.MODEL.RPN.IN_FEATURES, cfg.MODEL.RPN.HEAD_NAME = ["p2"], "StandardRPNHead"
    cfg.MODEL.RPN.PRE_NMS_TOPK_TEST = cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 60
    cfg.MODEL.ANCHOR_GENERATOR.SIZES, cfg.MODEL.BOX_CONVENTION = [[16]], convention
    torch.manual_seed(3)
    return build_proposal_generator(cfg, {"p2": ShapeSpec(channels=4, stride=4)}).eval()


def test_proposals_outside_of_the_image_are_kept():
    rpn, plain = build_rpn("inclusive"), build_rpn("exclusive")
    torch.manual_seed(4)
    for _ in range(5):
        corner = torch.randint(-30, 140, (1, 60, 2)).float()
        boxes = torch.cat([corner, corner + torch.randint(1, 30, (1, 60, 2))], dim=2)
        logits = torch.randperm(60)[None].float()
        found = {}
        for name, network in (("inclusive", rpn), ("exclusive", plain)):
            network._decode_proposals = lambda *_, b=boxes: [b.clone()]
            found[name] = network.predict_proposals(None, [logits], None, [SIZE])[0]
        clipped = [clipped_pixels(box, SIZE) for box in boxes[0].tolist()]
        kept = slow_nms([(a, b, c - 1, d - 1) for a, b, c, d in clipped], logits[0].tolist(), 0.7)
        assert found["inclusive"].proposal_boxes.tensor.tolist() == [clipped[i] for i in kept]
        assert found["inclusive"].objectness_logits.tolist() == [logits[0, i].item() for i in kept]
        assert len(found["exclusive"]) < len(kept)


def test_the_exclusive_rpn_is_detectron2s():
    torch.manual_seed(5)
    rpn = build_rpn("exclusive")
    images, features = ImageList(torch.zeros(2, 3, *SIZE), [SIZE, (80, 100)]), {"p2": torch.randn(2, 4, 24, 32)}
    ours, _ = rpn(images, features)
    theirs, _ = RPN.forward(rpn, images, features)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a.proposal_boxes.tensor, b.proposal_boxes.tensor)


def test_detections_are_clipped_to_pixels():
    predictor = inclusive_heads().box_predictor
    assert type(predictor) is InclusiveBoxPredictor
    boxes = torch.randint(-40, 170, (9, 2, 2)).sort(dim=1).values.flatten(1).float()
    proposals = [Instances(SIZE, proposal_boxes=Boxes(boxes))]
    decoded = predictor.predict_boxes((torch.zeros(9, 4), torch.zeros(9, 12)), proposals)[0]
    expected = torch.tensor([clipped_pixels(box, SIZE) * 3 for box in boxes.tolist()])
    torch.testing.assert_close(decoded, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("opts", "says"),
    [
        (["MODEL.BOX_CONVENTION", "half"], "one of 'exclusive', 'inclusive'"),
        (["MODEL.BOX_CONVENTION", "inclusive", "MODEL.ROI_HEADS.NAME", "SeamlessROIHeads"], "MODEL.ROI_HEADS.NAME"),
        (["MODEL.BOX_CONVENTION", "inclusive", "MODEL.PROPOSAL_GENERATOR.NAME", "RPN"], "GENERATOR.NAME RPN"),
    ],
)
def test_parts_without_the_convention_are_refused(toy_config, tiny_opts, opts, says):
    with pytest.raises(ConfigError, match="BOX_CONVENTION") as error:
        resolve_config(read_config(toy_config, [*tiny_opts, *opts]))
    assert says in str(error.value)

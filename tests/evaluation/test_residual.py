"""things_masks and the residual evaluator on a small network, against the definition; the tool that draws them."""

import math

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from panoptic_cases import NUM_THINGS, Pair, random_pair

from panoptic_fusion import config_file, get_cfg
from panoptic_fusion.data.label_space import LabelSpace
from panoptic_fusion.errors import ConfigError, UserError
from panoptic_fusion.evaluation.residual import ResidualEvaluator
from panoptic_fusion.layers import roi_flatten
from panoptic_fusion.modeling.fusion.tascnet.tasc_loss import things_masks

CATEGORIES = [{"id": i + 1, "name": f"c{i}", "isthing": int(i < 2), "color": [i, i, i]} for i in range(5)]
LABELS = LabelSpace.from_categories(CATEGORIES)


def test_masks_follow_from_the_outputs():
    torch.manual_seed(0)
    logits = 4 * torch.randn(5, 16, 24)
    boxes = torch.tensor([[3.0, 4.0, 60.0, 41.0], [30.0, 20.0, 90.0, 60.0]])
    masks = 2 * torch.randn(2, 28, 28)
    instances = Instances((61, 90), pred_boxes=Boxes(boxes), pred_mask_logits=masks)
    semantic, instance = things_masks(logits, instances, LABELS, (64, 96), (61, 90))
    assert semantic.shape == instance.shape == (16, 23)
    things = logits.softmax(0)[3:].sum(0)
    expected = torch.where(things > 0.5, things, 0.0)
    torch.testing.assert_close(semantic, expected[:, :23])
    torch.testing.assert_close(instance, roi_flatten(masks.sigmoid(), boxes / 4, (16, 24))[:, :23])
    with pytest.raises(ConfigError, match="ONTOLOGY"):
        things_masks(logits[:3], instances, LABELS, (64, 96), (61, 90))


# One image of 2 x 4 pixels: two things, the second one a crowd region, stuff, and a void pixel.
GT = np.array([[1, 1, 2, 0], [1, 1, 3, 3]])
SEGMENTS = [(1, 0, False), (2, 1, True), (3, 2, False)]


def evaluate(name, outputs, evaluator=None):
    evaluator = evaluator or ResidualEvaluator(name, distributed=False)
    evaluator.process(DatasetCatalog.get(name)[: len(outputs)], [{"things_masks": masks} for masks in outputs])
    return evaluator.evaluate()["residual"]


def test_by_hand(registered):
    name = registered([Pair(GT, [], GT, SEGMENTS)] * 2, 2, 2)
    evaluator = ResidualEvaluator(name, distributed=False)
    assert all(math.isnan(value) for value in evaluator.evaluate()["residual"].values())
    # of the four thing pixels of the image, one is claimed by both, one by the semantic head, two by none
    first = torch.tensor([[0.9, 0.8, 0.9, 0.0], [0.0] * 4]), torch.tensor([[0.5, 0.0, 0.0, 0.6], [0.0] * 4])
    second = torch.tensor([[0.8] * 4] * 2), torch.zeros(2, 4)
    residual = (0.4 + 0.8 + 0.9 + 0.6) / 8
    expected = {"mean": 100 * residual, "recall_semantic": 50, "recall_instances": 25, "both_miss": 50}
    assert evaluate(name, [first], evaluator) == pytest.approx(expected)
    expected = {"mean": 50 * (residual + 0.8), "recall_semantic": 75, "recall_instances": 12.5, "both_miss": 25}
    assert evaluate(name, [second, second], evaluator) == pytest.approx(expected)  # the first image counts once
    # half the resolution: each pixel stands for the lower right one of 2 x 2 (thing, stuff)
    half = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 1.0]])
    assert evaluate(name, [half]) == {"mean": 0, "recall_semantic": 0, "recall_instances": 0, "both_miss": 100}
    with pytest.raises(UserError, match="'other' is not in dataset"):
        evaluator.process([{"image_id": "other"}], [{"things_masks": half}])


def test_random_images_equal_a_loop_over_pixels(registered):
    rng = np.random.default_rng(0)
    pairs = [random_pair(rng, empty_gt_segments=False) for _ in range(25)]
    name = registered(pairs)
    masks = rng.random((25, 2, 12, 17)).astype(np.float32) * (rng.random((25, 2, 12, 17)) > 0.4)
    sums = dict.fromkeys(("things", "recall_semantic", "recall_instances", "both_miss"), 0)
    for pair, (semantic, instance) in zip(pairs, masks, strict=True):
        kinds = {i: cls < NUM_THINGS and not crowd for i, cls, crowd in pair.gt_segments}
        for y, x in np.ndindex(12, 17):
            segment = int(pair.gt_map[int((y + 0.5) * 24 / 12), int((x + 0.5) * 32 / 17)])
            if kinds.get(segment, False):
                sums["things"] += 1
                sums["recall_semantic"] += semantic[y, x] > 0
                sums["recall_instances"] += instance[y, x] > 0
                sums["both_miss"] += semantic[y, x] == 0 and instance[y, x] == 0
    things = sums.pop("things")
    assert things > 500
    expected = {key: 100 * value / things for key, value in sums.items()}
    expected["mean"] = 100 * np.abs(masks[:, 0].astype(float) - masks[:, 1]).mean(axis=(1, 2)).mean()
    result = evaluate(name, [tuple(map(torch.from_numpy, pair)) for pair in masks])
    assert result == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("system", ["tascnet_r18", "panoptic_fpn_r18"])
def test_the_model_returns_them_for_instances_that_may_be_painted(system):
    cfg = get_cfg()
    cfg.merge_from_file(config_file(f"toy/{system}.yaml"))
    cfg.DATASETS.REGISTER, cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = [], [], []
    cfg.MODEL.CATEGORIES, cfg.MODEL.DEVICE = CATEGORIES, "cpu"
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 8
    cfg.MODEL.FPN.OUT_CHANNELS = cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 32
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.MODEL.PANOPTIC_FUSION.OUTPUTS = ["things_masks"]
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    record = {"image": torch.randint(0, 256, (3, 61, 90), dtype=torch.uint8), "height": 200, "width": 300}
    with torch.no_grad():
        model.fusion.instances_confidence_thresh = 1.0  # no instance
        output = model([record])[0]
        assert set(output) == {"things_masks"}
        assert output["things_masks"][0].shape == (16, 23) and not output["things_masks"][1].any()
        model.fusion.instances_confidence_thresh = 0.0
        assert model([record])[0]["things_masks"][1].any()

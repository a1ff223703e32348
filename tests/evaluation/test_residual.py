"""things_masks and the residual evaluator on a small network, against the definition; the tool that draws them."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from panoptic_fusion import config_file, get_cfg
from panoptic_fusion.data.label_space import LabelSpace
from panoptic_fusion.errors import ConfigError
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


def test_evaluator():
    evaluator = ResidualEvaluator(distributed=False)
    assert torch.tensor(evaluator.evaluate()["residual"]["mean"]).isnan()
    first = torch.tensor([[0.9, 0.0]]), torch.tensor([[0.5, 0.6]])  # residuals 0.4 and 0.6
    second = torch.zeros(4, 4), torch.zeros(4, 4)
    evaluator.process([{"image_id": 1}, {"image_id": 2}], [{"things_masks": first}, {"things_masks": second}])
    assert evaluator.evaluate()["residual"]["mean"] == pytest.approx(25)
    evaluator.process([{"image_id": 1}], [{"things_masks": first}])  # a sampler that pads shows it again
    assert evaluator.evaluate()["residual"]["mean"] == pytest.approx(25)
    evaluator.reset()
    evaluator.process([{"image_id": 2}], [{"things_masks": second}])
    assert evaluator.evaluate() == {"residual": {"mean": 0.0}}


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

"""TASCNet's configs: all build, and how many parameters the shared network saves (figure 4: 61 %)."""

from pathlib import Path

import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone, build_model

import panoptic_fusion.data.datasets  # noqa: F401  (registers Cityscapes, COCO, Vistas)
from panoptic_fusion import config_file, get_cfg
from panoptic_fusion.engine.trainer import PanopticTrainer
from panoptic_fusion.modeling.fusion import MaskGuidedFusion
from panoptic_fusion.networks import PanopticRCNN

OTHERS = ("_instances", "_semantic", "_independent", "_ms")  # not a TASCNet, or one that another config trains
CONFIGS = [
    path
    for path in sorted((Path(__file__).parents[2] / "configs").glob("*/tascnet_*.yaml"))
    if not path.stem.endswith(OTHERS)
]
CATEGORIES = [{"id": i + 1, "name": f"c{i}", "isthing": int(i < 2), "color": [i, i, i]} for i in range(5)]


def load(path):
    cfg = get_cfg()
    cfg.merge_from_file(str(path))
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def count(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def test_parameters_against_two_separate_networks():
    cfg = load(config_file("cityscapes/tascnet_r50.yaml"))
    model = build_model(cfg)
    things = count(model.proposal_generator, model.roi_heads)
    assert count(model.backbone.bottom_up) == 23_454_912  # ResNet-50 without its classifier and the frozen BN's buffers
    assert count(model.backbone.top_block) == 2048 * 256 * 9 + 256 + 256 * 256 * 9 + 256
    assert count(model.backbone) == 32_108_224
    assert count(model.sem_seg_head) == 4 * (256 * 128 * 9 + 128 * 128 * 9 + 4 * 128) + (4 * 128 + 1) * 19 == 1_781_267
    assert things == 593_935 + 16_562_481
    assert count(model.fusion) == 0
    total = count(model)
    assert total == 51_045_907

    separate = 2 * count(model.backbone) + count(model.sem_seg_head) + things
    assert separate == 83_154_131
    assert total / separate == pytest.approx(0.614, abs=5e-4)  # the paper: 61 %
    # A semantic network alone has no use for P6 and P7; without them:
    assert total / (separate - count(model.backbone.top_block)) == pytest.approx(0.656, abs=5e-4)


@pytest.mark.parametrize(
    ("name", "ontology", "parameters"),
    [
        # backbone, RPN and RoI heads; and backbone without P6 and P7, and stuff head of 19, 12 or 11 channels
        ("instances", "full", 32_108_224 + 593_935 + 16_562_481),
        ("semantic", "full", 32_108_224 - 5_308_928 + 1_781_267),
        ("semantic", "collapsed", 32_108_224 - 5_308_928 + 1_781_267 - 7 * 513),
        ("semantic", "stuff", 32_108_224 - 5_308_928 + 1_781_267 - 8 * 513),
    ],
)
def test_separate_networks_of_table_2(name, ontology, parameters):
    """No parameter that no loss reaches: distributed training would wait for its gradient."""
    cfg = load(config_file(f"cityscapes/tascnet_r50_{name}.yaml"))
    cfg.MODEL.DEVICE, cfg.MODEL.SEM_SEG_HEAD.ONTOLOGY = "meta", ontology
    with torch.device("meta"):
        assert count(build_model(cfg)) == parameters


def test_context_maps_are_for_the_proposals_only():
    for name in ("cityscapes/tascnet_r50.yaml", "toy/tascnet_r18.yaml"):
        cfg = load(config_file(name))
        shapes = build_backbone(cfg).output_shape()
        assert {k: s.stride for k, s in shapes.items()} == {f"p{i}": 2**i for i in range(2, 8)}
        assert list(cfg.MODEL.RPN.IN_FEATURES) == list(shapes)
        assert list(cfg.MODEL.ROI_HEADS.IN_FEATURES) == list(cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES) == list(shapes)[:4]
        assert len(cfg.MODEL.ANCHOR_GENERATOR.SIZES) == 6


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_config_builds(path):
    cfg = load(path)
    if cfg.DATASETS.REGISTER:  # its files may be absent
        cfg.DATASETS.REGISTER, cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = [], [], []
        cfg.MODEL.CATEGORIES = CATEGORIES
    model = PanopticTrainer.build_model(cfg)
    assert type(model) is META_ARCH_REGISTRY.get("PanopticRCNN") is PanopticRCNN
    assert isinstance(model.fusion, MaskGuidedFusion) == (cfg.MODEL.SEM_SEG_HEAD.ONTOLOGY != "stuff")
    frozen = {name.split(".")[0] for name, p in model.named_parameters() if not p.requires_grad}
    whole = {name for name, child in model.named_children() if child is not model.backbone and name in frozen}
    assert whole == set(cfg.MODEL.FREEZE) - {"backbone.bottom_up", "backbone.top_block"}

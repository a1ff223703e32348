"""The Seamless configs: parameters, multiply-accumulates and settings of the paper and the published models."""

import pytest
import torch
from detectron2.modeling import build_model
from torch.utils.flop_counter import FlopCounterMode

from panoptic_fusion import config_file, get_cfg, resolve_config
from panoptic_fusion.layers import InPlaceABN
from panoptic_fusion.layers.activated_norm import ActivatedGroupNorm
from panoptic_fusion.modeling.fusion import fill_in_thresholds

GROUP_NORM = ["MODEL.RPN.NORM", "GN", "MODEL.ROI_BOX_HEAD.NORM", "GN", "MODEL.ROI_MASK_HEAD.NORM", "GN"]


def build(name, *opts):
    """The network of a config without memory for its tensors."""
    cfg = get_cfg()
    cfg.merge_from_file(config_file(name))
    cfg.merge_from_list(["MODEL.DEVICE", "meta", *opts])
    with torch.device("meta"):
        return build_model(cfg)


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_cityscapes():
    model = build("cityscapes/seamless_r50.yaml")
    parts = {
        model: 51_434_387,  # 51.43 M in the paper
        model.backbone: 31_573_568,
        model.backbone.bottom_up: 23_508_032,
        model.proposal_generator: 594_191,
        model.roi_heads: 16_565_809,
        model.sem_seg_head: 2_700_819,
    }
    assert [count(part) for part in parts] == list(parts.values())
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 51_209_043
    assert len(model.state_dict()) == 410  # tensors of the published checkpoint


def test_vistas():
    model = build("vistas/seamless_r50.yaml")
    assert count(model) == 52_206_969 and len(model.state_dict()) == 415
    assert model.proposal_generator.rpn_head.anchor_deltas.out_channels == 4 * 5
    assert list(model.backbone.output_shape()) == ["p2", "p3", "p4", "p5", "p6", "p7"]


def test_group_norm_in_the_heads():
    """The paper's text: as many parameters, fewer tensors, no batch norm in the three heads."""
    model = build("vistas/seamless_r50.yaml", *GROUP_NORM)
    assert count(model) == 52_206_969 and len(model.state_dict()) == 399
    heads = [*model.proposal_generator.modules(), *model.roi_heads.modules()]
    norms = [m for m in heads if isinstance(m, ActivatedGroupNorm)]
    assert len(norms) == 1 + 2 + 5 and all(m.num_groups == 16 for m in norms)
    assert not any(isinstance(m, InPlaceABN) for m in heads)


def test_the_texts_3x3_fusion_of_minidl():
    """53.01 M: one of the two reasons to prefer 1x1, see docs/seamless.md."""
    assert count(build("cityscapes/seamless_r50.yaml", "MODEL.SEM_SEG_HEAD.MINIDL_FUSE_KERNEL", 3)) == 53_007_251


def test_idd_and_resnet101():
    """17 + 9 classes instead of 11 + 8: 7 more rows of 513 numbers, 1 more of 1 + 4 rows of 1025 and of 257 numbers."""
    assert count(build("idd/seamless_r50.yaml")) == 51_434_387 + 7 * 513 + 5 * 1025 + 257
    assert count(build("cityscapes/seamless_r101.yaml")) == 51_434_387 - 23_508_032 + 42_500_160


def gmac(module, *args):
    with FlopCounterMode(display=False) as counter, torch.no_grad(), torch.device("meta"):
        result = module(*args)
    return counter.get_total_flops() / 2e9, result


def saved(num_classes, height, width):
    """GMAC that the predictor saves when three levels of 128 channels are classified before they are upsampled."""
    pixels = height * width // 16
    return num_classes * 128 * (3 * pixels - pixels // 4 - pixels // 16 - pixels // 64) / 1e9


def test_multiply_accumulates():
    """At 1024 x 2048, RoI heads left out: 513.9 in the paper's order of operations, which it calls 0.514 TFLOP."""
    model = build("cityscapes/seamless_r50.yaml").eval()
    backbone, features = gmac(model.backbone, torch.empty(1, 3, 1024, 2048, device="meta"))
    rpn, _ = gmac(model.proposal_generator.rpn_head, [features[f] for f in model.proposal_generator.in_features])
    semantic, logits = gmac(model.sem_seg_head, features)
    assert saved(19, 1024, 2048) == pytest.approx(0.852, abs=0.001)
    semantic += saved(19, 1024, 2048)
    assert backbone == pytest.approx(170.83 + 121.20, abs=0.01)
    assert rpn == pytest.approx(103.65, abs=0.01)
    assert semantic == pytest.approx(118.21, abs=0.01)
    assert backbone + rpn + semantic == pytest.approx(513.9, abs=0.05)
    assert logits.shape == (1, 19, 256, 512)
    heads = model.roi_heads
    box, hidden = gmac(heads.box_head, torch.empty(1000, 256, 14, 14, device="meta"))
    box += gmac(heads.box_predictor, hidden)[0]
    mask, _ = gmac(heads.mask_head.layers, torch.empty(100, 256, 14, 14, device="meta"))
    assert box == pytest.approx(13.94, abs=0.01) and mask == pytest.approx(51.54, abs=0.01)


def test_vistas_multiply_accumulates():
    model = build("vistas/seamless_r50.yaml").eval()
    total, features = gmac(model.backbone, torch.empty(1, 3, 1920, 2560, device="meta"))
    total += gmac(model.proposal_generator.rpn_head, list(features.values()))[0]
    total += gmac(model.sem_seg_head, features)[0] + saved(65, 1920, 2560)
    assert total == pytest.approx(1213.1, abs=0.05)


def test_independent():
    """The paper's 78.06 M: both networks, the frozen conv1 and res2 that they share counted once."""
    folder = config_file("cityscapes/seamless_r50.yaml").rpartition("/")[0]
    opts = []
    for key in ("INSTANCES", "SEMANTIC"):
        opts += [f"MODEL.INDEPENDENT.{key}", f"{folder}/seamless_r50_{key.lower()}.yaml"]
    model = build("cityscapes/seamless_r50_independent.yaml", *opts)
    instances, semantic = model.instance_network, model.semantic_network
    frozen = sum(p.numel() for p in semantic.parameters() if not p.requires_grad)
    assert frozen == 225_344
    assert count(instances) == 51_434_387 - 2_700_819
    assert count(model) - frozen == 78_063_507
    assert not hasattr(semantic, "roi_heads") and list(semantic.backbone.output_shape()) == ["p2", "p3", "p4", "p5"]
    # 51.8 % more than the combined network
    assert (count(model) - frozen) / 51_434_387 == pytest.approx(1.518, abs=0.0005)


@pytest.mark.parametrize("dataset", ["cityscapes", "idd", "vistas"])
def test_schedules(dataset):
    """Sections 5 and 5.3, and what the published settings add to them."""
    cfg = get_cfg()
    cfg.merge_from_file(config_file(f"{dataset}/seamless_r50.yaml"))
    cfg = resolve_config(cfg)
    solver, inputs, rpn = cfg.SOLVER, cfg.INPUT, cfg.MODEL.RPN
    vistas = dataset == "vistas"
    factor = 4 if vistas else 1
    assert (solver.MAX_ITER, solver.STEPS) == (48000 * factor, (36000 * factor, 44000 * factor))
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.GAMMA, solver.WARMUP_ITERS) == (8, 0.01, 0.1, 200)
    assert solver.WARMUP_FACTOR == pytest.approx(1 / 3) and solver.NESTEROV and solver.MOMENTUM == 0.9
    assert (solver.WEIGHT_DECAY, solver.WEIGHT_DECAY_NORM, solver.WEIGHT_DECAY_BIAS) == (1e-4, 0.0, None)
    assert (list(inputs.MIN_SIZE_TRAIN), list(inputs.SCALE_JITTER)) == (
        ([1920], [0.8, 1.25]) if vistas else ([1024], [0.5, 2.0])
    )
    assert inputs.MAX_SIZE_TRAIN == inputs.MAX_SIZE_TEST == (2304 if vistas else 4096)
    assert (rpn.PRE_NMS_TOPK_TRAIN, rpn.POST_NMS_TOPK_TRAIN) == (12000, 2000)
    assert (rpn.PRE_NMS_TOPK_TEST, rpn.POST_NMS_TOPK_TEST, rpn.NMS_THRESH) == (6000, 1000, 0.7)
    assert (rpn.BATCH_SIZE_PER_IMAGE, rpn.POSITIVE_FRACTION, rpn.IOU_THRESHOLDS) == (256, 0.5, [0.3, 0.7])
    assert rpn.SMOOTH_L1_BETA == pytest.approx(1 / 3**2) and cfg.MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA == 1
    scale = 2 if vistas else 8
    sizes = [[scale * 2**level] for level in range(2, 8 if vistas else 7)]
    assert cfg.MODEL.ANCHOR_GENERATOR.SIZES == sizes
    assert cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS == [[0.2, 0.5, 1, 2, 5] if vistas else [1, 0.5, 2]]
    heads = cfg.MODEL.ROI_HEADS
    assert (heads.BATCH_SIZE_PER_IMAGE, heads.POSITIVE_FRACTION, heads.IOU_THRESHOLDS) == (512, 0.25, [0.5])
    assert (heads.SCORE_THRESH_TEST, heads.NMS_THRESH_TEST) == (0.05, 0.5)
    assert cfg.TEST.DETECTIONS_PER_IMAGE == (256 if vistas else 100)
    assert cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS == (10.0, 10.0, 5.0, 5.0)
    mean, std = (0.41738699, 0.45732192, 0.46886091), (0.25685097, 0.26509955, 0.29067996)
    assert cfg.MODEL.PIXEL_MEAN == pytest.approx([255 * v for v in mean], abs=1e-4)
    assert cfg.MODEL.PIXEL_STD == pytest.approx([255 * v for v in std], abs=1e-4)
    assert inputs.FORMAT == "RGB" and fill_in_thresholds(cfg).MODEL.PANOPTIC_FUSION.STUFF_AREA_LIMIT == 4096

"""The UPSNet configs: parameters and settings of the published models (facts, sections 1.2 to 1.10)."""

import pytest
import torch
from detectron2.engine import DefaultTrainer
from detectron2.modeling import build_model
from torch import nn

import panoptic_fusion.data.datasets  # noqa: F401  (registers Cityscapes and COCO)
from panoptic_fusion import config_file, get_cfg
from panoptic_fusion.modeling.fusion import fill_in_thresholds
from panoptic_fusion.modeling.stuff_heads import DeformableSemSegHead


def load(name, *opts):
    cfg = get_cfg()
    cfg.merge_from_file(config_file(name))
    cfg.merge_from_list(["MODEL.DEVICE", "meta", *opts])
    return cfg


def build(name):
    """The network without memory for its tensors."""
    with torch.device("meta"):
        return build_model(load(name))


def count(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def norm_affines(backbone: nn.Module) -> int:
    """Weights and biases of its frozen batch norms: buffers here, parameters in the published models."""
    assert not any(isinstance(m, nn.BatchNorm2d) for m in backbone.modules())
    return sum(b.numel() for name, b in backbone.named_buffers() if name.endswith(("norm.weight", "norm.bias")))


# By the facts: total, norm affines (R101 has 17 more blocks of 256, 256 and 1024 channels), number of thing classes.
R101_AFFINES = 53_120 + 17 * 2 * (256 + 256 + 1024)
PUBLISHED = {
    "coco/upsnet_r50.yaml": (46_129_904, 53_120, 80),
    "coco/upsnet_r101_dcn.yaml": (66_408_204, R101_AFFINES, 80),
    "cityscapes/upsnet_r50.yaml": (44_527_804, 53_120, 8),
    "cityscapes/upsnet_r101.yaml": (63_519_932, R101_AFFINES, 8),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters(name):
    """The published number, minus what a detectron2 port does not have: the affines of the frozen norms (buffers), the
    mask and the box regression of the background class."""
    published, affines, things = PUBLISHED[name]
    model = build(name)
    assert norm_affines(model.backbone) == affines
    background_mask, background_box = 256 + 1, 4 * (1024 + 1)
    assert count(model) == published - affines - background_mask - background_box


def test_parameters_of_each_part():
    model = build("coco/upsnet_r50.yaml")
    assert count(model.backbone.bottom_up) == 23_508_032 - 53_120
    assert count(model.backbone) - count(model.backbone.bottom_up) == 3_868_928
    assert count(model.backbone.fpn_gap) == 2048 * 256 + 256
    assert count(model.proposal_generator) == 593_935
    assert count(model.roi_heads.box_head, model.roi_heads.box_predictor) == 14_310_805 - 4 * (1024 + 1)
    assert count(model.roi_heads.mask_head) == 2_643_537 - (256 + 1)
    assert count(model.sem_seg_head) == 1_204_667
    assert count(model.fusion) == 0
    cityscapes = build("cityscapes/upsnet_r50.yaml")
    assert not hasattr(cityscapes.backbone, "fpn_gap")
    # R101-DCN: an offset convolution with 18 channels in each block of res3 to res5, nothing else.
    deformable = build("coco/upsnet_r101_dcn.yaml").backbone.bottom_up
    offsets = {128: 4, 256: 23, 512: 3}
    added = sum(num * (9 * channels * 18 + 18) for channels, num in offsets.items())
    plain = build("cityscapes/upsnet_r101.yaml").backbone.bottom_up
    assert count(deformable) - count(plain) == added


ROW = "train-sizes train-max test-size test-max iterations steps warm-up fcn roi panoptic layers limit"
TABLE = {
    "coco/upsnet_r50.yaml": ((800,), 1333, 800, 1333, 90_000, (60_000, 80_000), 1500, 0.2, 0.04, 0.1, 3, 4096),
    "coco/upsnet_r101_dcn.yaml": (
        tuple(range(640, 833, 32)), 1333, 800, 1333, 270_000, (210_000, 250_000), 1500, 0.2, 0.04, 0.1, 3, 4096,
    ),
    "cityscapes/upsnet_r50.yaml": (
        tuple(range(800, 1025, 32)), 2048, 1024, 2048, 12_000, (9000,), 1500, 1.0, 0.0, 0.5, 2, 2048,
    ),
    "cityscapes/upsnet_r101.yaml": (
        tuple(range(800, 1025, 32)), 2048, 1024, 2048, 3000, (2000,), 0, 1.0, 0.0, 0.5, 2, 2048,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_settings_of_the_table(name):
    cfg = load(name)
    head, fusion = cfg.MODEL.SEM_SEG_HEAD, fill_in_thresholds(cfg).MODEL.PANOPTIC_FUSION
    found = [
        *(tuple(cfg.INPUT.MIN_SIZE_TRAIN), cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST),
        *(cfg.SOLVER.MAX_ITER, tuple(cfg.SOLVER.STEPS), cfg.SOLVER.WARMUP_ITERS),
        *(head.LOSS_WEIGHT, head.ROI_LOSS_WEIGHT, fusion.UPSNET.LOSS_WEIGHT, head.NUM_CONVS, fusion.STUFF_AREA_LIMIT),
    ]
    assert dict(zip(ROW.split(), found, strict=True)) == dict(zip(ROW.split(), TABLE[name], strict=True))
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR) == (16, 0.02)
    assert (fusion.INSTANCES_CONFIDENCE_THRESH, fusion.OVERLAP_THRESH) == (0.6, 0.3)
    assert (fusion.UPSNET.UNKNOWN, fusion.UPSNET.UNKNOWN_FRACTION) == (True, 0.3)


@pytest.mark.parametrize(
    ("name", "gpus", "expected"),
    [
        ("coco/upsnet_r50.yaml", 8, (8, 0.01, 180_000, (120_000, 160_000))),
        ("coco/upsnet_r50.yaml", 4, (4, 0.005, 360_000, (240_000, 320_000))),
        ("cityscapes/upsnet_r50.yaml", 4, (4, 0.005, 48_000, (36_000,))),
        ("cityscapes/upsnet_r50.yaml", 16, (16, 0.02, 12_000, (9000,))),
    ],
)
def test_published_schedules_of_fewer_gpus(name, gpus, expected):
    """What Base-UPSNet.yaml says about SOLVER.REFERENCE_WORLD_SIZE."""
    opts = ["SOLVER.REFERENCE_WORLD_SIZE", 16]
    solver = DefaultTrainer.auto_scale_workers(load(name, *opts), gpus).SOLVER
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.MAX_ITER, tuple(solver.STEPS)) == expected
    assert solver.WARMUP_ITERS == 1500 * 16 // gpus  # not what was published:
    opts += ["SOLVER.WARMUP_ITERS", {16: 1500, 8: 750, 4: 375}[gpus]]
    assert DefaultTrainer.auto_scale_workers(load(name, *opts), gpus).SOLVER.WARMUP_ITERS == 1500


def test_biases_learn_twice_as_fast_without_decay():
    cfg = load("cityscapes/upsnet_r50.yaml")
    model = build("cityscapes/upsnet_r50.yaml")
    groups = {}
    for group in DefaultTrainer.build_optimizer(cfg, model).param_groups:
        for parameter in group["params"]:
            groups[parameter] = (group["lr"], group["weight_decay"])
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert groups[parameter] == ((0.04, 0.0) if name.endswith("bias") else (0.02, 1e-4)), name
    frozen = {name.split(".")[2] for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"stem", "res2"}


def test_networks_of_the_facts():
    for name, (_, _, things) in PUBLISHED.items():
        model = build(name)
        assert isinstance(model.sem_seg_head, DeformableSemSegHead) and type(model.fusion).__name__ == "UPSNetFusion"
        assert model.roi_heads.num_classes == things
        assert model.pixel_std.shape == (3, 1, 1)
        generator = model.proposal_generator.anchor_generator
        assert type(generator).__name__ == "RoundedAnchorGenerator" and generator.offset == 0.5
        for pooler in (model.roi_heads.box_pooler, model.roi_heads.mask_pooler):
            assert [(x.aligned, x.sampling_ratio) for x in pooler.level_poolers] == [(False, 2)] * 4
        rpn = model.proposal_generator
        assert rpn.anchor_boundary_thresh == 0 and rpn.smooth_l1_beta == pytest.approx(1 / 9)
        assert (rpn.pre_nms_topk, rpn.post_nms_topk) == ({True: 2000, False: 1000},) * 2
        block = model.backbone.bottom_up.res3[0]
        assert block.conv1.stride == (2, 2) and tuple(block.conv2.stride) == (1, 1)
        cfg = load(name)
        assert cfg.MODEL.PIXEL_MEAN == [102.9801, 115.9465, 122.7717] and cfg.MODEL.PIXEL_STD == [1.0, 1.0, 1.0]
        assert cfg.INPUT.FORMAT == "BGR" and model.fuse_at_input_resolution

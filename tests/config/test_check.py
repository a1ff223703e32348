"""What `resolve_config` refuses: parts that cannot work, choices and numbers out of range; and what it must accept."""

import pytest
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY

from panoptic_fusion import resolve_config
from panoptic_fusion.config.check import REPLACED_BACKBONES
from panoptic_fusion.config.read import read_config
from panoptic_fusion.config.values import VALUES
from panoptic_fusion.errors import ConfigError
from panoptic_fusion.modeling.backbone.pyramid import PYRAMIDS
from panoptic_fusion.modeling.stuff_heads.tasc import TASCSemSegHead
from panoptic_fusion.networks import PanopticRCNN


@pytest.fixture
def resolve(toy_config, tiny_opts):
    """Resolves the tiny config with further KEY VALUE pairs."""
    return lambda *opts: resolve_config(read_config(toy_config, [*tiny_opts, *map(str, opts)]))


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("SOLVER.IMS_PER_BATCH", 0, "1 or more"),
        ("SOLVER.CHECKPOINT_PERIOD", 0, "1 or more"),
        ("SOLVER.MAX_ITER", 0, "--eval-only"),
        ("SOLVER.MAX_ITER", -1, "1 or more"),
        ("SOLVER.BASE_LR", 0.0, "above 0"),
        ("SOLVER.LR_SCHEDULER_NAME", "Foo", "WarmupCosineLR"),
        ("SOLVER.WARMUP_METHOD", "Foo", "linear"),
        ("MODEL.PIXEL_MEAN", "[1.0]", "three"),
        ("MODEL.PIXEL_STD", "[1.0, 1.0, 0.0]", "above 0"),
        ("INPUT.CROP.TYPE", "foo", "relative_range"),
        ("INPUT.FORMAT", "L", "RGB"),
        ("INPUT.MIN_SIZE_TRAIN", "()", "one or more"),
        ("INPUT.MIN_SIZE_TRAIN", "(0,)", "1 or more"),
        ("DATALOADER.NUM_WORKERS", -1, "0 or more"),
        ("MODEL.RPN.HEAD_NAME", "Foo", "StandardRPNHead"),
        ("MODEL.ANCHOR_GENERATOR.NAME", "Foo", "DefaultAnchorGenerator"),
    ],
)
def test_values_out_of_range(resolve, key: str, value, says: str):
    with pytest.raises(ConfigError) as error:
        resolve(key, value)
    assert str(error.value).startswith(f"{key} is ") and says in str(error.value)


@pytest.mark.parametrize(
    ("key", "value", "instead"),
    [
        ("MODEL.SEM_SEG_HEAD.NAME", "SemSegFPNHead", "PanopticFPNHead"),
        ("MODEL.META_ARCHITECTURE", "PanopticFPN", "PanopticRCNN"),
        ("MODEL.BACKBONE.BOTTOM_UP", "build_fpn_backbone", "build_resnet_backbone"),
        ("MODEL.BACKBONE.BOTTOM_UP", "build_narrow_resnet_fpn_backbone", "build_narrow_resnet_backbone"),
        ("MODEL.BACKBONE.BOTTOM_UP", "build_resnet_fpn_backbone", "build_timm_backbone"),
        ("MODEL.ROI_HEADS.NAME", "CascadeROIHeads", "SeamlessROIHeads"),
    ],
)
def test_registered_parts_that_cannot_work(resolve, key: str, value: str, instead: str):
    """They are refused, and those that the message offers do not include them."""
    with pytest.raises(ConfigError) as error:
        resolve(key, value)
    offered = str(error.value).partition("available: ")[2].split(", ")
    assert key in str(error.value) and instead in offered and value not in offered


def test_a_bottom_up_that_would_be_ignored(resolve):
    bottom_up = ["MODEL.BACKBONE.BOTTOM_UP", "build_narrow_resnet_backbone"]
    with pytest.raises(ConfigError, match="MODEL.BACKBONE.NAME is 'build_resnet_fpn_backbone'.*BOTTOM_UP"):
        resolve("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", *bottom_up)
    resolve("MODEL.BACKBONE.NAME", "build_fpn_backbone", *bottom_up)
    resolve("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.BACKBONE.BOTTOM_UP", "build_resnet_backbone")


def test_own_parts_of_a_user(resolve):
    def build_own_backbone(cfg, input_shape):
        raise NotImplementedError

    class OwnRCNN(PanopticRCNN):
        pass

    class OwnHead(TASCSemSegHead):
        pass

    parts = {
        "MODEL.BACKBONE.BOTTOM_UP": (BACKBONE_REGISTRY, build_own_backbone),
        "MODEL.META_ARCHITECTURE": (META_ARCH_REGISTRY, OwnRCNN),
        "MODEL.SEM_SEG_HEAD.NAME": (SEM_SEG_HEADS_REGISTRY, OwnHead),
    }
    try:
        for registry, part in parts.values():
            registry.register(part)
        resolve(*(word for key, (_, part) in parts.items() for word in (key, part.__name__)))
    finally:
        for registry, part in parts.values():
            registry._obj_map.pop(part.__name__, None)


def test_a_gpu_where_there_is_none(resolve, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert resolve().MODEL.DEVICE == "cpu"
    with pytest.raises(ConfigError, match="MODEL.DEVICE cuda:1: no GPU is available"):
        resolve("MODEL.DEVICE", "cuda:1")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert resolve().MODEL.DEVICE == "cuda"
    assert resolve("MODEL.DEVICE", "cuda:1").MODEL.DEVICE == "cuda:1"


@pytest.mark.parametrize("name", REPLACED_BACKBONES)
def test_former_backbone_names_tell_their_replacement(resolve, name: str):
    """Of configs before dcb73d8. The replacement exists."""
    pyramid, network = REPLACED_BACKBONES[name]
    assert name not in BACKBONE_REGISTRY and pyramid in PYRAMIDS and network in BACKBONE_REGISTRY
    with pytest.raises(ConfigError) as error:
        resolve("MODEL.BACKBONE.NAME", name)
    assert f"set MODEL.BACKBONE.NAME {pyramid} and MODEL.BACKBONE.BOTTOM_UP {network}" in str(error.value)


def test_no_rule_of_a_value_fails():
    """Any key can be None or, in a file, have any type."""
    values = [None, True, -1, 0.5, "x", [], [None], [[None]], {}, {"a": 1}, float("nan"), 10**30]
    for rule in VALUES.values():
        assert all(rule.holds(value) in (True, False) for value in values)
    assert not any(rule.holds(None) for key, rule in VALUES.items() if key in ("SEED", "SOLVER.MOMENTUM"))

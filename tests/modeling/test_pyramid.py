"""Pyramids on exchangeable networks: the same as detectron2's builders, and errors that name the key."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY

from panoptic_fusion.config.read import read_config
from panoptic_fusion.errors import ConfigError
from panoptic_fusion.modeling.backbone.pyramid import PYRAMIDS

LEVELS = {"build_fpn_backbone": 5, "build_context_fpn_backbone": 6, "build_abn_fpn_backbone": 5}
SMALL = [
    "MODEL.RESNETS.DEPTH", 18,
    "MODEL.RESNETS.STEM_OUT_CHANNELS", 64,
    "MODEL.RESNETS.RES2_OUT_CHANNELS", 64,
    "MODEL.RESNETS.NORM", "BN",
    "MODEL.RESNETS.OUT_FEATURES", "['res2', 'res3', 'res4', 'res5']",
    "MODEL.FPN.IN_FEATURES", "['res2', 'res3', 'res4', 'res5']",
    "MODEL.FPN.OUT_CHANNELS", 16,
    "MODEL.RPN.IN_FEATURES", "['p2', 'p3', 'p4', 'p5', 'p6']",
    "MODEL.BACKBONE.FREEZE_AT", 0,
]  # fmt: skip


def build(name: str, bottom_up: str = "build_resnet_backbone", *opts):
    cfg = read_config(opts=[*SMALL, "MODEL.BACKBONE.NAME", name, "MODEL.BACKBONE.BOTTOM_UP", bottom_up, *opts])
    torch.manual_seed(0)
    return BACKBONE_REGISTRY.get(name)(cfg, ShapeSpec(channels=3)).eval()


def same(one, other) -> bool:
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        maps, maps2 = one(image), other(image)
    assert list(one.state_dict()) == list(other.state_dict())
    return list(maps) == list(maps2) and all(torch.equal(maps[level], maps2[level]) for level in maps)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("build_fpn_backbone", "build_resnet_fpn_backbone"),
        ("build_context_fpn_backbone", "build_retinanet_resnet_fpn_backbone"),
    ],
)
def test_on_a_resnet_they_are_those_of_detectron2(ours, theirs):
    assert same(build(ours), build(theirs))


@pytest.mark.parametrize("bottom_up", ["build_resnet_backbone", "build_narrow_resnet_backbone"])
@pytest.mark.parametrize("name", LEVELS)
def test_every_pyramid_on_every_network(name, bottom_up):
    assert name in PYRAMIDS
    backbone = build(name, bottom_up, "MODEL.FPN.NORM", "BN")
    assert list(backbone.output_shape()) == [f"p{i + 2}" for i in range(LEVELS[name])]
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, 128, 64))
    for i, value in enumerate(maps.values()):
        assert value.shape == (1, 16, 128 // 2 ** (i + 2) or 1, 64 // 2 ** (i + 2) or 1)


@pytest.mark.parametrize("bottom_up", ["build_resnet_backbone", "build_narrow_resnet_backbone"])
@pytest.mark.parametrize("name", LEVELS)
def test_deformable_stages_need_their_network(name, bottom_up):
    """Not an ImportError of detectron2's extension, and not an ordinary network without a word."""
    deformable = ["MODEL.RESNETS.DEFORM_ON_PER_STAGE", "[False, True, True, True]"]
    with pytest.raises(ConfigError, match="DEFORM_ON_PER_STAGE.*use build_deformable_resnet_backbone"):
        build(name, bottom_up, *deformable)
    resnet_50 = ["MODEL.RESNETS.DEPTH", 50, "MODEL.RESNETS.RES2_OUT_CHANNELS", 256, "MODEL.FPN.NORM", "BN"]
    names = build(name, "build_deformable_resnet_backbone", *resnet_50, *deformable).state_dict()
    assert "bottom_up.res3.0.conv2_offset.weight" in names and "bottom_up.res2.0.conv2_offset.weight" not in names


def test_a_network_without_the_feature_map():
    with pytest.raises(ConfigError, match="MODEL.FPN.IN_FEATURES has 'res4'.*available: res2, res3"):
        build("build_fpn_backbone", "build_resnet_backbone", "MODEL.RESNETS.OUT_FEATURES", "['res2', 'res3']")

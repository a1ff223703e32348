"""FPN with global context against plain PyTorch."""

import copy
import pickle

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from torch import nn
from torch.nn import functional as F

from panoptic_fusion import get_cfg
from panoptic_fusion.errors import ConfigError


def build(bottom_up="build_narrow_resnet_backbone", **resnets):
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.BOTTOM_UP = "build_gap_fpn_backbone", bottom_up
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    if "narrow" in bottom_up:
        cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 8
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    for key, value in resnets.items():
        cfg.MODEL.RESNETS[key] = value
    return build_backbone(cfg, ShapeSpec(channels=3)).eval()


def plain_fpn(features, params):
    """Facts, section 1.2; features of res2 to res5."""

    def conv(x, name):
        weight = params[f"{name}.weight"]
        return F.conv2d(x, weight, params[f"{name}.bias"], padding=weight.shape[-1] // 2)

    pooled = features["res5"].flatten(2).mean(2)
    context = pooled @ params["fpn_gap.weight"].t() + params["fpn_gap.bias"]
    inner = conv(features["res5"], "fpn_lateral5") + context[:, :, None, None]
    outputs = {"p5": conv(inner, "fpn_output5")}
    for level in (4, 3, 2):
        enlarged = inner.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        inner = conv(features[f"res{level}"], f"fpn_lateral{level}") + enlarged
        outputs[f"p{level}"] = conv(inner, f"fpn_output{level}")
    outputs["p6"] = outputs["p5"][:, :, ::2, ::2]
    return outputs


def test_equals_plain_pytorch():
    torch.manual_seed(0)
    backbone = build()
    nn.init.normal_(backbone.fpn_gap.bias)
    images = torch.randn(2, 3, 64, 96)
    images[1, :, :, 50:] = 0  # padding is part of the average
    outputs = backbone(images)
    expected = plain_fpn(backbone.bottom_up(images), backbone.state_dict())
    assert list(outputs) == list(backbone.output_shape()) == ["p2", "p3", "p4", "p5", "p6"]
    for name, x in outputs.items():
        torch.testing.assert_close(x, expected[name], rtol=1e-4, atol=1e-5)


def test_gradient_and_names():
    backbone = build().train()
    sum(x.square().sum() for x in backbone(torch.randn(2, 3, 64, 64)).values()).backward()
    assert all(p.grad.abs().sum() > 0 for p in backbone.fpn_gap.parameters())
    names = {name.split(".")[0] for name in backbone.state_dict()}
    convs = {f"fpn_{kind}{level}" for kind in ("lateral", "output") for level in (2, 3, 4, 5)}
    assert names == {"bottom_up", "fpn_gap", *convs}
    assert backbone.fpn_gap.weight.shape == (16, 64)  # torch's own initialization:
    assert backbone.fpn_gap.weight.abs().max() <= 1 / 8 and backbone.fpn_gap.bias.abs().sum() > 0


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_has_its_own_context(duplicate):
    torch.manual_seed(0)
    backbone = build()
    images = torch.randn(1, 3, 64, 64)
    before = backbone(images)["p5"]
    other = duplicate(backbone)
    assert torch.equal(other(images)["p5"], before)
    with torch.no_grad():
        other.fpn_gap.bias += 1
        other.fpn_lateral5.bias += 1
    assert torch.equal(backbone(images)["p5"], before)
    torch.testing.assert_close(other(images)["p5"], plain_fpn(other.bottom_up(images), other.state_dict())["p5"])


def test_on_a_resnet_with_deformable_stages():
    with torch.device("meta"):
        plain = build("build_deformable_resnet_backbone", DEPTH=50)
        deformable = build("build_deformable_resnet_backbone", DEPTH=50, DEFORM_ON_PER_STAGE=[False, True, True, True])
    added = set(deformable.state_dict()) - set(plain.state_dict())
    blocks = [f"res{stage}.{block}" for stage, num in ((3, 4), (4, 6), (5, 3)) for block in range(num)]
    assert added == {f"bottom_up.{block}.conv2_offset.{kind}" for block in blocks for kind in ("weight", "bias")}
    assert set(plain.state_dict()) < set(deformable.state_dict())
    assert plain.fpn_gap.in_features == deformable.fpn_gap.in_features == 2048
    with pytest.raises(ConfigError, match="DEFORM_MODULATED is True"):
        build("build_deformable_resnet_backbone", DEFORM_ON_PER_STAGE=[False] * 3 + [True], DEFORM_MODULATED=True)
    with pytest.raises(ConfigError, match="DEPTH is 18"):
        build("build_deformable_resnet_backbone", DEFORM_ON_PER_STAGE=[False, False, False, True], DEPTH=18)

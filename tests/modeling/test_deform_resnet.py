"""The deformable bottleneck: an ordinary one at first, then the published order of its layers."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from detectron2.modeling.backbone.resnet import BottleneckBlock
from torch import nn
from torch.nn import functional as F

from panoptic_fusion import get_cfg
from panoptic_fusion.layers import deform_conv2d
from panoptic_fusion.modeling.backbone.deform_resnet import DeformableBottleneck

BLOCKS = [
    {"in_channels": 12, "out_channels": 16, "stride": 2, "stride_in_1x1": True},
    {"in_channels": 12, "out_channels": 16, "stride": 2, "stride_in_1x1": False},
    {"in_channels": 16, "out_channels": 16, "stride": 1, "dilation": 2},
]


def build(settings):
    torch.manual_seed(0)
    plain = BottleneckBlock(**settings, bottleneck_channels=8, norm="BN").eval()
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.weight, 0.5, 2)
    block = DeformableBottleneck(**settings, bottleneck_channels=8, norm="BN").eval()
    missing, unexpected = block.load_state_dict(plain.state_dict(), strict=False)
    assert missing == ["conv2_offset.weight", "conv2_offset.bias"] and not unexpected
    return plain, block


@pytest.mark.parametrize("settings", BLOCKS, ids=["stride in 1x1", "stride in 3x3", "dilation"])
def test_block(settings):
    plain, block = build(settings)
    x = torch.randn(2, settings["in_channels"], 10, 12)
    torch.testing.assert_close(block(x), plain(x))

    nn.init.normal_(block.conv2_offset.weight, std=0.2)
    nn.init.normal_(block.conv2_offset.bias)

    def norm(y, conv):
        return F.batch_norm(y, conv.norm.running_mean, conv.norm.running_var, conv.norm.weight, conv.norm.bias)

    first = 2 if settings.get("stride_in_1x1") else 1
    second, dilation = settings["stride"] // first, settings.get("dilation", 1)
    y = norm(F.conv2d(x, block.conv1.weight, stride=first), block.conv1).relu()
    geometry = {"stride": second, "padding": dilation, "dilation": dilation}
    offset = F.conv2d(y, block.conv2_offset.weight, block.conv2_offset.bias, **geometry)
    y = norm(deform_conv2d(y, offset, block.conv2.weight, **geometry), block.conv2).relu()
    y = norm(F.conv2d(y, block.conv3.weight), block.conv3)
    shortcut = x if block.shortcut is None else norm(F.conv2d(x, block.shortcut.weight, stride=2), block.shortcut)
    expected = (y + shortcut).relu()
    assert not torch.allclose(expected, plain(x))
    torch.testing.assert_close(block(x), expected)
    block(x).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in block.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_offsets_are_not_rounded_to_half_precision(dtype):
    _, block = build(BLOCKS[0])
    nn.init.normal_(block.conv2_offset.weight, std=0.2)
    nn.init.constant_(block.conv2_offset.bias, 1.3)
    seen = {}
    block.conv2.register_forward_pre_hook(lambda module, args: seen.update(x=args[0], offset=args[1]))
    with torch.autocast("cpu", dtype):
        result = block(torch.randn(2, 12, 10, 12))
    assert seen["x"].dtype == dtype and seen["offset"].dtype == torch.float32
    offset = F.conv2d(seen["x"].float(), block.conv2_offset.weight, block.conv2_offset.bias, padding=1)
    torch.testing.assert_close(seen["offset"], offset)
    result.sum().backward()
    assert block.conv2_offset.weight.grad.abs().sum() > 0


def test_whole_network_starts_as_the_ordinary_one_and_freezes():
    cfg = get_cfg()
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res5"]
    torch.manual_seed(0)
    plain = build_backbone(cfg, ShapeSpec(channels=3)).eval()
    cfg.MODEL.BACKBONE.NAME = "build_deformable_resnet_backbone"
    assert list(build_backbone(cfg, ShapeSpec(channels=3)).state_dict()) == list(plain.state_dict())
    cfg.MODEL.RESNETS.DEFORM_ON_PER_STAGE = [True, False, False, True]
    deformable = build_backbone(cfg, ShapeSpec(channels=3)).eval()
    missing, unexpected = deformable.load_state_dict(plain.state_dict(), strict=False)
    assert len(missing) == 2 * (3 + 3) and not unexpected
    images = torch.randn(1, 3, 64, 64)
    for name, x in deformable(images).items():
        torch.testing.assert_close(x, plain(images)[name], rtol=1e-4, atol=1e-4 * x.abs().max().item())
    frozen = {name.split(".")[0] for name, p in deformable.named_parameters() if not p.requires_grad}
    assert frozen == {"stem", "res2"} and all(not p.requires_grad for p in deformable.res2.parameters())
    assert all(p.requires_grad for p in deformable.res5.parameters())

"""The small Seamless backbone against a plain-PyTorch statement of ResNet-18 with activated norms."""

import pytest
import torch
from detectron2.modeling import build_backbone
from torch.nn import functional as F

from panoptic_fusion import config_file, get_cfg
from panoptic_fusion.layers import InPlaceABN


def plain_conv(x, params, name, stride=1, slope=0.01):
    """Convolution, batch norm of the batch with |weight| + 1e-5, LeakyReLU."""
    weight = params[f"{name}.weight"]
    y = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
    mean, var = y.mean((0, 2, 3), keepdim=True), y.var((0, 2, 3), correction=0, keepdim=True)
    scale = (params[f"{name}.norm.weight"].abs() + 1e-5).view(1, -1, 1, 1)
    y = (y - mean) / (var + 1e-5).sqrt() * scale + params[f"{name}.norm.bias"].view(1, -1, 1, 1)
    return F.leaky_relu(y, slope) if slope != 1 else y


def build(*opts):
    cfg = get_cfg()
    cfg.merge_from_file(config_file("toy/seamless_r18.yaml"))
    cfg.merge_from_list(["MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.RESNETS.RES2_OUT_CHANNELS", 16, *opts])
    return build_backbone(cfg)


def test_equals_plain_pytorch():
    """In training, so with the statistics of the batch; norm weights of both signs; an odd size."""
    torch.manual_seed(0)
    net = build().bottom_up.train()
    with torch.no_grad():
        for m in net.modules():
            if isinstance(m, InPlaceABN):
                m.weight.normal_().add_(0.3 * m.weight.sign())
                m.bias.normal_(std=0.3)
    params = {k: v.clone() for k, v in net.state_dict().items()}
    x = torch.randn(2, 3, 75, 106)
    features = net(x)
    y = F.max_pool2d(plain_conv(x, params, "stem.conv1", 2), 3, stride=2, padding=1)
    for stage in (2, 3, 4, 5):
        for block in range(2):
            name, stride = f"res{stage}.{block}", 2 if stage > 2 and block == 0 else 1
            z = plain_conv(y, params, f"{name}.conv1", stride)
            z = plain_conv(z, params, f"{name}.conv2", slope=1)
            shortcut = y
            if f"{name}.shortcut.weight" in params:
                shortcut = plain_conv(y, params, f"{name}.shortcut", stride, slope=1)
            y = F.leaky_relu(z + shortcut, 0.01)
        torch.testing.assert_close(features[f"res{stage}"], y, atol=1e-4, rtol=1e-4)
        y = features[f"res{stage}"]
        assert y.shape[1] == 16 * 2 ** (stage - 2)


@pytest.mark.parametrize("norm", ["InPlaceABN", "GN", "BN", "SyncBN", "FrozenBN"])
def test_frozen_parts_compute_the_same(norm):
    """With their norms and activations as they are; only their parameters stay, and nothing else does."""
    x = torch.randn(2, 3, 64, 64)
    features = []
    for freeze_at in (0, 3):
        torch.manual_seed(0)
        widths = ["MODEL.RESNETS.STEM_OUT_CHANNELS", 16]
        net = build(*widths, "MODEL.RESNETS.NORM", norm, "MODEL.BACKBONE.FREEZE_AT", freeze_at).bottom_up.train()
        features.append(net(x))
    for name in ("res2", "res3", "res4", "res5"):
        assert torch.equal(features[0][name], features[1][name])
    frozen = ("stem", "res2", "res3")
    assert all(p.requires_grad != name.startswith(frozen) for name, p in net.named_parameters())


@pytest.mark.parametrize("norm", ["InPlaceABN", "GN", "BN"])
def test_under_the_pyramid(norm):
    backbone = build("MODEL.RESNETS.STEM_OUT_CHANNELS", 16, "MODEL.RESNETS.NORM", norm, "MODEL.FPN.NORM", norm)
    features = backbone(torch.randn(1, 3, 64, 96))
    assert {k: tuple(v.shape[1:]) for k, v in features.items()} == {
        f"p{i}": (64, -(-64 // 2**i), -(-96 // 2**i)) for i in (2, 3, 4, 5, 6)
    }
    sum(v.sum() for v in features.values()).backward()
    assert all(p.grad is not None for p in backbone.parameters())
    short = build("MODEL.RPN.IN_FEATURES", ["p2", "p3", "p4", "p5"])
    assert list(short(torch.randn(1, 3, 64, 64))) == ["p2", "p3", "p4", "p5"]

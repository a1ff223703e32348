"""The Seamless backbone and pyramid against a plain-PyTorch statement of the published network."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from panoptic_fusion.config.defaults import get_cfg
from panoptic_fusion.layers import InPlaceABN
from panoptic_fusion.modeling.backbone.abn_fpn import AbnFPN
from panoptic_fusion.modeling.backbone.abn_resnet import build_abn_resnet

FEATURES = ["res2", "res3", "res4", "res5"]


def count(parameters) -> int:
    return sum(p.numel() for p in parameters)


def randomise_norms(net: nn.Module) -> None:
    """Scales of both signs, and running statistics, as a trained network has them."""
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, InPlaceABN):
                module.weight.normal_().add_(0.3 * module.weight.sign())
                module.bias.normal_(std=0.3)
                module.running_mean.normal_(std=0.3)
                module.running_var.uniform_(0.5, 1.5)


def plain_abn(x, params, prefix, training, slope=0.01):
    """Batch norm with |weight| + 1e-5, then LeakyReLU, from a state dict."""
    mean, var = params[prefix + ".running_mean"].clone(), params[prefix + ".running_var"].clone()
    weight = params[prefix + ".weight"].abs() + 1e-5
    y = F.batch_norm(x, mean, var, weight, params[prefix + ".bias"], training, 0.1, 1e-5)
    return F.leaky_relu(y, slope) if slope != 1 else y


def plain_stem(x, params, training):
    x = F.conv2d(x, params["stem.conv1.weight"], stride=2, padding=3)
    return F.max_pool2d(plain_abn(x, params, "stem.conv1.norm", training), 3, stride=2, padding=1)


def plain_block(x, params, prefix, stride, training):
    y = F.conv2d(x, params[prefix + ".conv1.weight"])
    y = plain_abn(y, params, prefix + ".conv1.norm", training)
    y = F.conv2d(y, params[prefix + ".conv2.weight"], stride=stride, padding=1)
    y = plain_abn(y, params, prefix + ".conv2.norm", training)
    y = F.conv2d(y, params[prefix + ".conv3.weight"])
    y = plain_abn(y, params, prefix + ".conv3.norm", training, slope=1)
    shortcut = x
    if prefix + ".shortcut.weight" in params:
        shortcut = F.conv2d(x, params[prefix + ".shortcut.weight"], stride=stride)
        shortcut = plain_abn(shortcut, params, prefix + ".shortcut.norm", training, slope=1)
    return F.leaky_relu(y + shortcut, 0.01)


def plain_pyramid(features, params, num_extra_levels, training):
    """{"p2": ...} of {"res2": ...}; nearest resizing by index arithmetic."""
    results, above = {}, None
    for level in (5, 4, 3, 2):
        lateral = F.conv2d(features[f"res{level}"], params[f"fpn_lateral{level}.weight"])
        lateral = plain_abn(lateral, params, f"fpn_lateral{level}.norm", training)
        if above is not None:
            (h, w), (h_above, w_above) = lateral.shape[-2:], above.shape[-2:]
            rows, columns = torch.arange(h) * h_above // h, torch.arange(w) * w_above // w
            lateral = lateral + above[:, :, rows][:, :, :, columns]
        above = lateral
        y = F.conv2d(above, params[f"fpn_output{level}.weight"], padding=1)
        results[f"p{level}"] = plain_abn(y, params, f"fpn_output{level}.norm", training)
    x = features["res5"]
    for level in range(6, 6 + num_extra_levels):
        x = F.conv2d(x, params[f"top_block.p{level}.weight"], stride=2, padding=1)
        x = results[f"p{level}"] = plain_abn(x, params, f"top_block.p{level}.norm", training)
    return results


def test_parameter_counts():
    with torch.device("meta"):
        backbone = build_abn_resnet(50, num_frozen=2)
        assert count(backbone.parameters()) == 23_508_032
        assert count(p for p in backbone.parameters() if not p.requires_grad) == 225_344
        fpn = AbnFPN(backbone, FEATURES, 256, num_extra_levels=1)
        assert count(fpn.parameters()) - 23_508_032 == 8_065_536
        vistas = AbnFPN(build_abn_resnet(50), FEATURES, 256, num_extra_levels=2)
        assert count(vistas.parameters()) - count(fpn.parameters()) == 256 * 256 * 9 + 512
        # torchvision's resnet101 has 44,549,160, of which the classifier 2048 * 1000 + 1000
        assert count(build_abn_resnet(101).parameters()) == 44_549_160 - 2_049_000


def test_multiply_accumulates():
    """At 1024 x 2048, in units of 10^9: the facts' counts."""
    with torch.device("meta"):
        fpn = AbnFPN(build_abn_resnet(50), FEATURES, num_extra_levels=1).eval()
        counts = []
        for net in (fpn.bottom_up, fpn):
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                net(torch.empty(1, 3, 1024, 2048))
            counts.append(counter.get_total_flops() / 2e9)
    assert counts[0] == pytest.approx(170.83, abs=0.006)
    assert counts[1] - counts[0] == pytest.approx(121.20, abs=0.006)


@pytest.mark.parametrize("training", [False, True])
def test_backbone_equals_plain_pytorch(training):
    torch.manual_seed(0)
    net = build_abn_resnet(50, stem_channels=8, res2_channels=16).train(training)
    randomise_norms(net)
    params = {k: v.clone() for k, v in net.state_dict().items()}
    x = torch.randn(2, 3, 75, 106)
    features = net(x)
    y = plain_stem(x, params, training)
    for stage, num_blocks in zip((2, 3, 4, 5), (3, 4, 6, 3), strict=True):
        y = features[f"res{stage - 1}"] if stage > 2 else y  # stage by stage, so that errors do not pile up
        for block in range(num_blocks):
            y = plain_block(y, params, f"res{stage}.{block}", 2 if block == 0 and stage > 2 else 1, training)
        torch.testing.assert_close(features[f"res{stage}"], y, atol=1e-4, rtol=1e-4)
    assert [features[f].shape[-2:] for f in FEATURES] == [(19, 27), (10, 14), (5, 7), (3, 4)]


def test_full_width_stem_and_stage_gradients():
    """The published widths of stem and res2, forward and backward through shortcut, sum and norm."""
    torch.manual_seed(0)
    net = build_abn_resnet(50, out_features=("res2",))
    randomise_norms(net)
    params = {k: v.clone().requires_grad_("running" not in k) for k, v in net.state_dict().items()}
    x = torch.randn(2, 3, 48, 64)
    y = plain_stem(x, params, True)
    for block in range(3):
        y = plain_block(y, params, f"res2.{block}", 1, True)
    z = net(x)["res2"]
    torch.testing.assert_close(z, y, atol=1e-4, rtol=1e-4)
    grad = torch.randn_like(y)
    y.backward(grad)
    z.backward(grad)
    for name, parameter in net.named_parameters():
        error = (parameter.grad - params[name].grad).norm() / params[name].grad.norm()
        assert error < 1e-3, name


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("size", [(64, 128), (75, 106)])
def test_pyramid_equals_plain_pytorch(size, training):
    """Also at a size where doubling a level does not give the size of the one below."""
    torch.manual_seed(0)
    fpn = AbnFPN(build_abn_resnet(50, stem_channels=8, res2_channels=16), FEATURES, 12, num_extra_levels=2)
    fpn.train(training)
    randomise_norms(fpn)
    params = {k: v.clone() for k, v in fpn.state_dict().items()}
    x = torch.randn(2, 3, *size)
    results = fpn(x)
    features = fpn.bottom_up(x)  # the statistics of the batch, or in evaluation the running ones
    expected = plain_pyramid(features, params, 2, training)
    assert list(results) == ["p2", "p3", "p4", "p5", "p6", "p7"]
    for name, y in expected.items():
        torch.testing.assert_close(results[name], y, atol=1e-4, rtol=1e-4)
        assert fpn.output_shape()[name] == ShapeSpec(channels=12, stride=2 ** int(name[1]))


def test_without_extra_levels_and_other_norms():
    for norm in ("GN", "BN", "FrozenBN"):
        backbone = build_abn_resnet(50, stem_channels=16, res2_channels=64, norm=norm)
        fpn = AbnFPN(backbone, FEATURES, 16, num_extra_levels=0, norm=norm)
        assert list(fpn(torch.randn(1, 3, 64, 64))) == ["p2", "p3", "p4", "p5"]


def test_frozen_parts_update_their_statistics():
    net = build_abn_resnet(50, stem_channels=8, res2_channels=16, num_frozen=2)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    sum(y.sum() for y in net(torch.randn(2, 3, 64, 64)).values()).backward()
    for name, parameter in net.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None) == (not name.startswith(("stem", "res2"))), name
    for name in ("stem.conv1.norm", "res2.2.conv3.norm"):
        assert not torch.equal(net.state_dict()[name + ".running_mean"], before[name + ".running_mean"])


def saved_bytes(net: nn.Module, x: torch.Tensor) -> int:
    """Bytes of the distinct storages kept for backward, without the parameters and buffers."""
    own = {t.untyped_storage().data_ptr() for t in [*net.parameters(), *net.buffers()]}
    sizes = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = 0 if storage.data_ptr() in own else storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        features = net(x)
    del features
    return sum(sizes.values())


def test_memory_for_backward():
    """At most 0.6 of BatchNorm2d and LeakyReLU, although that LeakyReLU works in place."""
    x = torch.randn(1, 3, 128, 192)
    sizes = {norm: saved_bytes(build_abn_resnet(50, norm=norm), x) for norm in ("InPlaceABN", "BN")}
    assert sizes["InPlaceABN"] <= 0.6 * sizes["BN"]


def config():
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.BOTTOM_UP = "build_abn_fpn_backbone", "build_abn_resnet_backbone"
    cfg.MODEL.RESNETS.NORM = cfg.MODEL.FPN.NORM = "InPlaceABN"
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = FEATURES
    cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    return cfg


def test_from_config():
    with torch.device("meta"):
        backbone = build_backbone(config())
    assert count(backbone.parameters()) == 23_508_032 + 8_065_536
    assert count(p for p in backbone.parameters() if not p.requires_grad) == 225_344  # FREEZE_AT is 2 in detectron2
    assert list(backbone.output_shape()) == ["p2", "p3", "p4", "p5", "p6"]


@pytest.mark.parametrize(
    "key, value",
    [
        ("RESNETS.STRIDE_IN_1X1", True),
        ("RESNETS.NUM_GROUPS", 32),
        ("RESNETS.WIDTH_PER_GROUP", 32),
        ("RESNETS.RES5_DILATION", 2),
        ("RESNETS.DEFORM_ON_PER_STAGE", [False, True, True, True]),
        ("RESNETS.DEPTH", 18),
        ("FPN.FUSE_TYPE", "avg"),
        ("RPN.IN_FEATURES", ["p2"]),
    ],
)
def test_config_errors_name_the_key(key, value):
    cfg = config()
    cfg.merge_from_list([f"MODEL.{key}", value])
    with pytest.raises(ValueError, match=key.replace(".", r"\.")), torch.device("meta"):
        build_backbone(cfg)

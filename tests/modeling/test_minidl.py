"""The MiniDL head against a plain-PyTorch statement of the published one, and its loss."""

import math

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_sem_seg_head
from detectron2.structures import Instances
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from panoptic_fusion.config.defaults import get_cfg
from panoptic_fusion.layers import InPlaceABN
from panoptic_fusion.modeling.stuff_heads.minidl import MiniDLSemSegHead

LEVELS = ("p2", "p3", "p4", "p5")


def input_shape(channels: int = 256) -> dict[str, ShapeSpec]:
    return {name: ShapeSpec(channels=channels, stride=2 ** int(name[1])) for name in LEVELS}


def plain_norm(x, params, prefix, norm, training):
    weight, bias = params[prefix + ".weight"], params[prefix + ".bias"]
    if norm == "GN":
        return F.leaky_relu(F.group_norm(x, 16, weight, bias, 1e-5), 0.01)
    mean, var = params[prefix + ".running_mean"].clone(), params[prefix + ".running_var"].clone()
    return F.leaky_relu(F.batch_norm(x, mean, var, weight.abs() + 1e-5, bias, training, 0.1, 1e-5), 0.01)


def plain_minidl(features, params, norm, training, pool_size=64, fuse_padding=0):
    streams = []
    for name in LEVELS:
        x = features[name]
        kh, kw = min(pool_size, x.shape[2]), min(pool_size, x.shape[3])
        pooled = F.avg_pool2d(x, (kh, kw), stride=1)
        left, top = (kw - 1) // 2, (kh - 1) // 2
        pooled = F.pad(pooled, (left, left + (kw % 2 == 0), top, top + (kh % 2 == 0)), mode="replicate")
        y = torch.cat(
            [
                F.conv2d(x, params[f"heads.{name}.branch_3x3.weight"], padding=1),
                F.conv2d(x, params[f"heads.{name}.branch_dilated.weight"], padding=6, dilation=6),
                F.conv2d(pooled, params[f"heads.{name}.branch_pooled.weight"]),
            ],
            dim=1,
        )
        y = plain_norm(y, params, f"heads.{name}.norm", norm, training)
        y = F.conv2d(y, params[f"heads.{name}.fuse.weight"], padding=fuse_padding)
        y = plain_norm(y, params, f"heads.{name}.fuse.norm", norm, training)
        streams.append(F.interpolate(y, size=features["p2"].shape[-2:], mode="bilinear", align_corners=False))
    return F.conv2d(torch.cat(streams, dim=1), params["predictor.weight"], params["predictor.bias"])


def random_head(**kwargs) -> MiniDLSemSegHead:
    head = MiniDLSemSegHead(input_shape=input_shape(8), num_classes=5, conv_dim=16, **kwargs)
    with torch.no_grad():
        for module in head.modules():
            if hasattr(module, "bias") and not isinstance(module, torch.nn.Conv2d):
                module.weight.normal_().add_(0.3 * module.weight.sign())
                module.bias.normal_(std=0.3)
            if isinstance(module, InPlaceABN):
                module.running_mean.normal_(std=0.3)
                module.running_var.uniform_(0.5, 1.5)
    return head


def random_features(height: int, width: int) -> dict[str, torch.Tensor]:
    """Maps of strides 4 to 32 of an image of that size, rounded up."""
    return {n: torch.randn(2, 8, -(-height // 2 ** int(n[1])), -(-width // 2 ** int(n[1]))) for n in LEVELS}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("norm", ["InPlaceABN", "GN"])
@pytest.mark.parametrize("size", [(256, 320), (75, 106)])
def test_equals_plain_pytorch(size, norm, training):
    torch.manual_seed(0)
    for fuse_kernel, pool_size in ((1, 64), (3, 10)):
        head = random_head(norm=norm, fuse_kernel=fuse_kernel, pool_size=pool_size).train(training)
        params = {k: v.clone() for k, v in head.state_dict().items()}
        features = random_features(*size)
        expected = plain_minidl(features, params, norm, training, pool_size, fuse_kernel // 2)
        logits = head(features)
        assert logits.shape == (2, 5, *features["p2"].shape[-2:])
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def test_gradients_equal_plain_pytorch_in_float64():
    """Classifying before upsampling: logits and all gradients of the published order, with maps of odd sizes."""
    torch.manual_seed(0)
    for size in ((64, 96), (75, 106), (33, 250)):
        head = random_head(norm="GN", pool_size=10).double()
        features = {name: x.double().requires_grad_() for name, x in random_features(*size).items()}
        params = {k: v.detach().clone().requires_grad_() for k, v in head.named_parameters()}
        copies = {name: x.detach().clone().requires_grad_() for name, x in features.items()}
        logits, expected = head(features), plain_minidl(copies, params, "GN", True, 10)
        torch.testing.assert_close(logits, expected, atol=1e-12, rtol=1e-12)
        grad = torch.randn_like(logits)
        logits.backward(grad)
        expected.backward(grad)
        for name, parameter in head.named_parameters():
            torch.testing.assert_close(parameter.grad, params[name].grad, atol=1e-9, rtol=1e-9)
        for name, x in features.items():
            torch.testing.assert_close(x.grad, copies[name].grad, atol=1e-9, rtol=1e-9)


def test_parameter_counts():
    with torch.device("meta"):
        counts = {}
        for fuse_kernel in (1, 3):
            head = MiniDLSemSegHead(input_shape=input_shape(), num_classes=19, fuse_kernel=fuse_kernel)
            counts[fuse_kernel] = sum(p.numel() for p in head.parameters())
    assert counts[1] == 2_700_819
    assert counts[3] - counts[1] == 4 * 384 * 128 * 8  # 1.57 M more, as the facts say


def test_multiply_accumulates():
    """At 1024 x 2048, in units of 10^9: the facts' count, less what is saved by classifying before upsampling."""
    with torch.device("meta"):
        head = MiniDLSemSegHead(input_shape=input_shape(), num_classes=19).eval()
        features = {n: torch.empty(1, 256, 1024 // s.stride, 2048 // s.stride) for n, s in input_shape().items()}
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            head(features)
    pixels = 256 * 512
    saved = 19 * 128 * (3 * pixels - pixels / 4 - pixels / 16 - pixels / 64) / 1e9
    assert counter.get_total_flops() / 2e9 == pytest.approx(118.21 - saved, abs=0.006)


def test_initialisation():
    torch.manual_seed(0)
    head = MiniDLSemSegHead(input_shape=input_shape(), num_classes=65)
    assert head.predictor.weight.std().item() == pytest.approx(0.1 * math.sqrt(2 / (512 + 65)), rel=0.05)
    assert head.predictor.bias.abs().max() == 0
    gain = math.sqrt(2 / (1 + 0.01**2))
    assert head.heads["p2"].branch_3x3.weight.std().item() == pytest.approx(gain * math.sqrt(2 / (9 * 384)), rel=0.05)


def test_loss():
    """Against the loss written out: 25 % of each image without its padding, ignored pixels as zeros; gradients."""
    torch.manual_seed(0)
    head = random_head(loss_weight=2.0)
    features = random_features(48, 64)
    logits = head(features)
    target = torch.randint(0, 5, (2, 48, 64))
    target[0, :40, :50] = 255
    sizes = [(48, 64), (30, 41)]
    target[1, 30:] = 255
    target[1, :, 41:] = 255
    losses = head.losses(logits, target, [Instances(size) for size in sizes])
    upsampled = F.interpolate(logits, size=(48, 64), mode="bilinear", align_corners=False)
    pixels = F.cross_entropy(upsampled, target, ignore_index=255, reduction="none")
    images = []
    for loss, (h, w) in zip(pixels, sizes, strict=True):
        k = math.ceil(0.25 * h * w)
        images.append(loss[:h, :w].flatten().sort(descending=True).values[:k].mean())
    assert list(losses) == ["loss_sem_seg"]
    torch.testing.assert_close(losses["loss_sem_seg"], 2 * (images[0] + images[1]) / 2)
    losses["loss_sem_seg"].backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in head.parameters())


def test_all_ignored():
    head = random_head()
    logits = head(random_features(32, 32))
    loss = head.losses(logits, torch.full((2, 32, 32), 255), [Instances((32, 32))] * 2)["loss_sem_seg"]
    loss.backward()
    assert loss.item() == 0


def test_order_of_levels_and_error():
    head = MiniDLSemSegHead(input_shape=dict(reversed(input_shape(8).items())), num_classes=5, conv_dim=16)
    assert head.in_features == LEVELS
    with pytest.raises(ValueError, match="COMMON_STRIDE"):
        MiniDLSemSegHead(input_shape={"p3": ShapeSpec(channels=8, stride=8)}, num_classes=5)


def test_from_config():
    cfg = get_cfg()
    cfg.MODEL.SEM_SEG_HEAD.NAME = "MiniDLSemSegHead"
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = list(LEVELS)
    cfg.MODEL.SEM_SEG_HEAD.NORM = "InPlaceABN"
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 19
    cfg.MODEL.SEM_SEG_HEAD.HARD_PIXEL_FRACTION = 0.25
    cfg.MODEL.SEM_SEG_HEAD.MINIDL_POOL_SIZE = 64
    cfg.MODEL.SEM_SEG_HEAD.MINIDL_FUSE_KERNEL = 1
    shapes = input_shape() | {"p6": ShapeSpec(channels=256, stride=64)}
    with torch.device("meta"):
        head = build_sem_seg_head(cfg, shapes)
    assert sum(p.numel() for p in head.parameters()) == 2_700_819
    assert head.hard_pixel_fraction == 0.25

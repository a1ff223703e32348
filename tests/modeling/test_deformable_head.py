"""DeformableSemSegHead against a plain-PyTorch statement of the published one (facts, section 1.5), and its losses."""

import copy
import math

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes, Instances
from torch import nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from panoptic_fusion import get_cfg
from panoptic_fusion.errors import ConfigError
from panoptic_fusion.modeling.stuff_heads import DeformableSemSegHead
from panoptic_fusion.modeling.stuff_heads.deformable import DeformableLayer

LEVELS = ("p2", "p3", "p4", "p5")
SHAPES = {name: ShapeSpec(channels=12, stride=2 ** int(name[1])) for name in LEVELS}


def build(num_classes=5, conv_dim=8, shapes=SHAPES, **kwargs):
    return DeformableSemSegHead(input_shape=shapes, num_classes=num_classes, conv_dim=conv_dim, **kwargs)


def randomized(head):
    """With offsets of some pixels."""
    for layer in head.layers:
        nn.init.normal_(layer.offset.weight, std=0.2)
        nn.init.normal_(layer.offset.bias)
        nn.init.normal_(layer.conv.bias)
    nn.init.normal_(head.predictor.weight)
    nn.init.normal_(head.predictor.bias)
    return head


def features(num=2, height=64, width=96, channels=12):
    return {n: torch.randn(num, channels, height // 2 ** int(n[1]), width // 2 ** int(n[1])) for n in LEVELS}


def plain_deform_conv(x, offset, weight, bias):
    """3x3, padding 1: one map of samples for each tap, by `grid_sample`, multiplied by the tap's weights."""
    height, width = x.shape[-2:]
    y, z = torch.meshgrid(torch.arange(height, dtype=x.dtype), torch.arange(width, dtype=x.dtype), indexing="ij")
    result = bias[:, None, None]
    for tap in range(9):
        i, j = divmod(tap, 3)
        row, column = y + i - 1 + offset[:, 2 * tap], z + j - 1 + offset[:, 2 * tap + 1]
        grid = torch.stack([(2 * column + 1) / width - 1, (2 * row + 1) / height - 1], dim=-1)
        samples = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        result = result + torch.einsum("dc,nchw->ndhw", weight[:, :, i, j], samples)
    return result


def plain_features(params, maps, num_convs):
    """The concatenated feature at 1/4."""
    outputs = []
    for factor, name in zip((1, 2, 4, 8), LEVELS, strict=True):
        x = maps[name]
        for i in range(num_convs):
            offset = F.conv2d(x, params[f"layers.{i}.offset.weight"], params[f"layers.{i}.offset.bias"], padding=1)
            x = plain_deform_conv(x, offset, params[f"layers.{i}.conv.weight"], params[f"layers.{i}.conv.bias"])
            x = x.clamp(min=0)
        outputs.append(F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False) if factor > 1 else x)
    return torch.cat(outputs, dim=1)


@pytest.mark.parametrize("num_convs", [1, 2, 3])
@pytest.mark.parametrize("size", [(64, 96), (32, 32)])
def test_equals_plain_pytorch(size, num_convs):
    torch.manual_seed(0)
    head = randomized(build(num_convs=num_convs)).double()
    maps = {name: x.double() for name, x in features(2, *size).items()}
    logits = head(maps)
    params = head.state_dict()
    feature = plain_features(params, maps, num_convs)
    assert logits.shape == (2, 5, size[0] // 4, size[1] // 4)
    torch.testing.assert_close(logits, F.conv2d(feature, params["predictor.weight"], params["predictor.bias"]))
    # The levels' order in the config and in the dict does not matter.
    shuffled = build(num_convs=num_convs, shapes=dict(reversed(SHAPES.items()))).double()
    shuffled.load_state_dict(params)
    assert torch.equal(shuffled(dict(reversed(maps.items()))), logits)


@pytest.mark.parametrize(
    ("num_convs", "channels", "num_classes", "count"),
    [(3, [256, 256, 128, 128], 133, 1_204_667), (2, [256, 128, 128], 19, 514_615)],
    ids=["COCO", "Cityscapes"],
)
def test_layers_are_the_published_ones(num_convs, channels, num_classes, count):
    torch.manual_seed(0)
    shapes = {name: ShapeSpec(channels=256, stride=shape.stride) for name, shape in SHAPES.items()}
    head = build(num_classes, 128, shapes, num_convs=num_convs)
    assert [layer.conv.in_channels for layer in head.layers] + [head.layers[-1].conv.out_channels] == channels
    # Offsets of 18 channels and the deformable convolution, both with bias; then 1x1 from 4 x 128 channels.
    layers = sum(9 * a * 18 + 18 + 9 * a * b + b for a, b in zip(channels, channels[1:], strict=False))
    assert sum(p.numel() for p in head.parameters()) == layers + 513 * num_classes == count
    for layer, a in zip(head.layers, channels, strict=False):
        assert layer.offset.weight.abs().max() == layer.offset.bias.abs().max() == layer.conv.bias.abs().max() == 0
        assert layer.conv.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * a)), rel=0.02)
    assert head.predictor.weight.std().item() == pytest.approx(0.01, rel=0.03) and head.predictor.bias.abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_offsets_are_not_rounded_to_half_precision(dtype):
    """Every tap reads 40.3 pixels to the right on a ramp of one a pixel: in bfloat16 that would be 40.25."""
    torch.manual_seed(0)
    layer = DeformableLayer(2, 3)
    nn.init.constant_(layer.offset.bias[1::2], 40.3)
    nn.init.normal_(layer.offset.weight, std=1e-3)
    nn.init.constant_(layer.conv.weight, 1)
    x = torch.arange(96.0).expand(1, 2, 8, 96).to(dtype)
    offset = F.conv2d(x.float(), layer.offset.weight, layer.offset.bias, padding=1)
    assert (offset - offset.to(dtype).float()).abs().max() > 0.01
    expected = plain_deform_conv(x.float(), offset, layer.conv.weight, layer.conv.bias).relu()
    seen = []
    layer.conv.register_forward_pre_hook(lambda module, args: seen.append(args[1]))
    with torch.autocast("cpu", dtype):
        result = layer(x)
    torch.testing.assert_close(seen[0], offset)
    torch.testing.assert_close(result, expected.detach().to(dtype))
    result.sum().backward()
    assert layer.offset.weight.grad.abs().sum() > 0 and layer.offset.bias.grad.dtype == torch.float32


def instances(boxes, size=(64, 96)):
    return Instances(size, gt_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)))


def test_losses():
    torch.manual_seed(1)
    labels = torch.randint(0, 5, (2, 64, 96))
    boxes = [instances([[3, 4, 30, 60], [0, 0, 96, 64]]), instances([])]
    head = randomized(build(roi_loss_weight=0.2, loss_weight=0.5))
    maps = features()
    losses = head.losses(head(maps), labels, boxes)
    assert set(losses) == {"loss_sem_seg", "loss_sem_seg_roi"}
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())

    # The published RoI loss pools the concatenated feature and then applies the same 1x1 convolution.
    params = head.state_dict()
    rois = torch.tensor([[0, 3, 4, 30, 60], [0, 0, 0, 96, 64]], dtype=torch.float32)
    pooled = roi_align(plain_features(params, maps, 2), rois, 28, 1 / 4, 2)
    patches = F.conv2d(pooled, params["predictor.weight"], params["predictor.bias"])
    crops = [labels[0, 4:60, 3:30], labels[0]]
    targets = [F.interpolate(c[None, None].double(), (28, 28), mode="nearest")[0, 0].long() for c in crops]
    expected = F.cross_entropy(patches, torch.stack(targets)) / 2  # two images, the second without things
    torch.testing.assert_close(losses["loss_sem_seg_roi"], 0.2 * expected, rtol=1e-5, atol=1e-6)

    assert set(build().losses(head(maps), labels, boxes)) == {"loss_sem_seg"}
    for x in (labels, torch.full_like(labels, 255)):
        losses = head.losses(head(maps), x, [instances([]), instances([])])
        assert losses["loss_sem_seg_roi"] == 0
        sum(losses.values()).backward()


def loss_and_gradients(head, maps, labels, boxes, device, dtype=None):
    """On the CPU: the losses, the logits and the gradients of all parameters and maps, in float32."""
    head = copy.deepcopy(head).to(device)
    maps = {name: x.to(device, dtype or x.dtype, copy=True).requires_grad_() for name, x in maps.items()}
    boxes = [x.to(device) for x in boxes]
    with torch.autocast(device, dtype, enabled=dtype is not None):
        logits = head(maps)
        losses = head.losses(logits, labels.to(device), boxes)
    sum(losses.values()).backward()
    leaves = {**dict(head.named_parameters()), **maps}
    return losses, logits.detach().float().cpu(), {name: x.grad.float().cpu() for name, x in leaves.items()}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16])
def test_on_cuda_equals_cpu(dtype):
    """In float32 up to rounding; maps in half precision under autocast give losses and gradients of float32, about."""
    torch.manual_seed(2)
    head = randomized(build(roi_loss_weight=0.2))
    arguments = (features(), torch.randint(0, 5, (2, 64, 96)), [instances([[3, 4, 30, 60]]), instances([])])
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        found = loss_and_gradients(head, *arguments, "cuda", dtype)
    finally:
        torch.backends.cudnn.allow_tf32 = before
    expected = loss_and_gradients(head, *arguments, "cpu")
    tolerance = {None: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.1}[dtype]
    for name, loss in expected[0].items():
        assert found[0][name].item() == pytest.approx(loss.item(), rel=tolerance)
    assert (found[1] - expected[1]).norm() < tolerance * expected[1].norm()
    for name, gradient in expected[2].items():
        assert found[2][name].isfinite().all() and gradient.norm() > 0
        assert (found[2][name] - gradient).norm() < 5 * tolerance * gradient.norm(), name


def test_bad_settings_are_named():
    with pytest.raises(ConfigError, match="COMMON_STRIDE"):
        build(shapes={k: v for k, v in SHAPES.items() if k != "p2"})
    with pytest.raises(ConfigError, match="IN_FEATURES"):
        build(shapes={**SHAPES, "p5": ShapeSpec(channels=16, stride=32)})
    with pytest.raises(ConfigError, match="NUM_CONVS is 0"):
        build(num_convs=0)
    with pytest.raises(ConfigError, match="ROI_LOSS_WEIGHT is -1"):
        build(roi_loss_weight=-1)
    with pytest.raises(ConfigError, match=r"NORM is 'GN'.*\[12, 32, 32\]"):
        build(num_convs=3, conv_dim=32, norm="GN")
    assert all(layer.conv.norm.num_groups == 32 for layer in build(conv_dim=32, norm="GN").layers)


def test_from_config():
    cfg = get_cfg()
    sem_seg = cfg.MODEL.SEM_SEG_HEAD
    sem_seg.IN_FEATURES, sem_seg.NUM_CLASSES, sem_seg.CONVS_DIM, sem_seg.NORM = list(LEVELS), 7, 16, ""
    sem_seg.NUM_CONVS, sem_seg.ROI_LOSS_WEIGHT = 3, 0.04
    head = DeformableSemSegHead(cfg, {**SHAPES, "p6": ShapeSpec(channels=12, stride=64)})
    assert [layer.conv.out_channels for layer in head.layers] == [12, 16, 16]
    assert head.predictor.out_channels == 7 and head.roi_loss_weight == 0.04 and head.layers[0].conv.norm is None

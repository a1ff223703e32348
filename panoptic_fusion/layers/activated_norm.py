"""Normalization with activation, chosen by name, for the convolutions of the Seamless networks.

These modules take a tensor (N, C, ...) and, in residual blocks, the tensor to add before the activation.
"""

from collections.abc import Callable, Iterable

from detectron2.layers import FrozenBatchNorm2d
from detectron2.layers.batch_norm import LayerNorm
from torch import Tensor, nn
from torch.nn import functional as F

from panoptic_fusion.errors import ConfigError

from .in_place_abn import InPlaceABN


class _Activated:
    """Mixin that adds the sum with a residual and LeakyReLU after a norm."""

    slope = 0.01

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        y = super().forward(x)
        if residual is not None:
            y = y + residual
        return y if self.slope == 1 else F.leaky_relu_(y, self.slope)

    def with_activation(self, activation: str) -> "_Activated":
        if activation == "identity":
            self.slope = 1.0
        return self


class ActivatedGroupNorm(_Activated, nn.GroupNorm):
    """Group normalization, then LeakyReLU."""


class ActivatedBatchNorm(_Activated, nn.BatchNorm2d):
    """Batch normalization, then LeakyReLU: the same as InPlaceABN, except for |weight| + eps, at twice the memory."""


class ActivatedSyncBatchNorm(_Activated, nn.SyncBatchNorm):
    """Synchronized batch normalization, then LeakyReLU."""


class ActivatedFrozenBatchNorm(_Activated, FrozenBatchNorm2d):
    """The fixed affine of a trained batch norm, then LeakyReLU."""


ACTIVATED_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "BN": ActivatedBatchNorm,
    "SyncBN": ActivatedSyncBatchNorm,
    "FrozenBN": ActivatedFrozenBatchNorm,
    "GN": lambda channels: ActivatedGroupNorm(16, channels),
}
ACTIVATED_NAMES = ("InPlaceABN", *ACTIVATED_NORMS)  # names that `get_activated_norm` accepts
# Names whose modules also accept inputs in an RoI head: (R, C) of a linear layer, a single RoI, an empty batch.
ROI_NAMES = ("InPlaceABN", "GN")
# Names that detectron2's `get_norm` accepts, and InPlaceABN, which `resolve_norm` adds.
PLAIN_NAMES = ("", "BN", "SyncBN", "FrozenBN", "GN", "LN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N", "InPlaceABN")


def check_norm(key: str, norm: str, known: Iterable[str] = ACTIVATED_NAMES) -> str:
    """Checks that `norm`, the value of a config key, is one of the names `known`, and returns it.

    Raises:
        ConfigError: if it is not. The message contains the key and the known names.
    """
    if norm not in known:
        raise ConfigError(f"{key} is {norm!r}: use one of {', '.join(map(repr, known))}")
    return norm


def get_activated_norm(
    norm: str | Callable[[int], nn.Module], channels: int, activation: str = "leaky_relu"
) -> nn.Module:
    """Builds the norm of a name, including LeakyReLU (slope 0.01).

    Args:
        norm: "InPlaceABN" (as in the published Seamless models), "GN" (as in the text of their paper, with the 16
            groups of the published code, while detectron2's "GN" has 32), "BN", "SyncBN", "FrozenBN", or a callable
            that builds the module from the number of channels.
        channels: number of channels C.
        activation: "leaky_relu" or "identity".

    Raises:
        ConfigError: if the name is unknown.
    """
    if callable(norm):
        return norm(channels)
    if check_norm("NORM", norm) == "InPlaceABN":
        return InPlaceABN(channels, activation=activation)
    return ACTIVATED_NORMS[norm](channels).with_activation(activation)


def resolve_norm(norm: str | Callable[[int], nn.Module]) -> str | Callable[[int], nn.Module]:
    """Returns the `norm` argument for detectron2's own modules, so that configs can also use "InPlaceABN" for them.

    detectron2's `get_norm` supports a fixed set of names and callables. Its modules have their own activation, so the
    returned InPlaceABN has none. Their activation must not be in place, as it is in detectron2's ResNet blocks.
    """
    if norm == "InPlaceABN":
        return lambda channels: InPlaceABN(channels, activation="identity")
    return norm


def freeze_norm_parameters(model: nn.Module) -> None:
    """Freezes the weights and biases of all norms. Batch statistics are still used and updated.

    This is learning rate 0 for every norm of the network, as in the first row of the Seamless paper's Table 1.
    """
    norms = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm, LayerNorm)
    for module in model.modules():
        if isinstance(module, norms):
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)

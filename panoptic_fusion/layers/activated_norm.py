"""Normalisation with its activation, chosen by name: what follows the convolutions of the Seamless networks.

A module of this kind is called with (N, C, ...) and, in residual blocks, the tensor to add before the activation.
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
    """Batch normalisation, then LeakyReLU: InPlaceABN's function (but for its |weight| + eps) at twice the memory."""


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
ACTIVATED_NAMES = ("InPlaceABN", *ACTIVATED_NORMS)  # of `get_activated_norm`
# Those that also take what a RoI head has: (R, C) of a linear layer, a single region in a batch, none.
ROI_NAMES = ("InPlaceABN", "GN")
# Those of detectron2's `get_norm`, and with `resolve_norm` InPlaceABN.
PLAIN_NAMES = ("", "BN", "SyncBN", "FrozenBN", "GN", "LN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N", "InPlaceABN")


def check_norm(key: str, norm: str, known: Iterable[str] = ACTIVATED_NAMES) -> str:
    """Returns `norm`, the value of the config key.

    Raises:
        ConfigError: it is none of the names `known`; the message names the key and these.
    """
    if norm not in known:
        raise ConfigError(f"{key} is {norm!r}: use one of {', '.join(map(repr, known))}")
    return norm


def get_activated_norm(
    norm: str | Callable[[int], nn.Module], channels: int, activation: str = "leaky_relu"
) -> nn.Module:
    """The norm of that name with LeakyReLU (slope 0.01) in it.

    Args:
        norm: "InPlaceABN" (the published Seamless models), "GN" (their paper's text: 16 groups, where detectron2's "GN"
            has 32), "BN", "SyncBN", "FrozenBN"; or a callable that makes the module from the number of channels.
        channels: C.
        activation: "leaky_relu" or "identity".

    Raises:
        ConfigError: there is no such norm.
    """
    if callable(norm):
        return norm(channels)
    if check_norm("NORM", norm) == "InPlaceABN":
        return InPlaceABN(channels, activation=activation)
    return ACTIVATED_NORMS[norm](channels).with_activation(activation)


def resolve_norm(norm: str | Callable[[int], nn.Module]) -> str | Callable[[int], nn.Module]:
    """What to pass for `norm` to detectron2's own modules, so that "InPlaceABN" works in a config, too.

    detectron2's `get_norm` knows a fixed set of names and, besides, takes a callable. Its modules have their own
    activation, so this one comes without; that activation must not work in place (detectron2's ResNet blocks do).
    """
    if norm == "InPlaceABN":
        return lambda channels: InPlaceABN(channels, activation="identity")
    return norm


def freeze_norm_parameters(model: nn.Module) -> None:
    """Stops the training of all norms' weights and biases; batch statistics are still used and updated.

    That is learning rate 0 for every norm of the network, as in the first row of the Seamless paper's Table 1.
    """
    norms = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm, LayerNorm)
    for module in model.modules():
        if isinstance(module, norms):
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)

"""Class probabilities of the spatial ranking module in tiles of cells, for CPUs.

The convolutions of the module map all T thing classes to all T thing classes at every cell, so their cost grows with
T^2. An image has only a few classes near each cell, and no probability is needed where there is no mask. The module is
linear, so its convolutions amount to one, with a kernel that is the sum over the branches of the products of their
kernels. Each tile is convolved with the kernels of the classes in its receptive field alone, and tiles without a class
are left out. The cost grows with T times the area of the masks. The probabilities equal the module's up to rounding in
float32.

Shapes: T is the number of thing classes, U the number of used channels, h x w the number of cells, A x B the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from panoptic_fusion.modeling.fusion.oanet.spatial_ranking_module import SpatialRankingModule
from panoptic_fusion.modeling.fusion.paint import FLAT_DEVICES

TILE = 48
"""Side of a tile in cells."""

MIN_CLASSES = 16
"""Number of thing classes from which the tiles are faster than the module."""


def tiled_probabilities(module: SpatialRankingModule, channels: Tensor, classes: Sequence[int]) -> Tensor:
    """Returns the softmax of the ranking score map for some classes, where they are present.

    Args:
        module: ranking module.
        channels: (U, h, w) float, the channels of the classes that are present, see `class_channels`.
        classes: thing class of each of the channels.

    Returns:
        (U, h, w) float32. Undefined in tiles where the channel is 0.
    """
    kernel, bias = joint_kernel(module, classes)
    _, height, width = channels.shape
    margin = [side // 2 for side in kernel.shape[2:]]
    # The last channel is 1 in the image, for the bias of all convolutions except the last.
    padded = F.pad(F.pad(channels, (0, 0, 0, 0, 0, 1), value=1.0), [m for m in margin[::-1] for _ in range(2)])
    index, result = torch.tensor(classes), torch.zeros_like(channels)
    for y, x in ((y, x) for y in range(0, height, TILE) for x in range(0, width, TILE)):
        tile = (slice(None), slice(y, y + TILE), slice(x, x + TILE))
        field = padded[:, y : y + TILE + 2 * margin[0], x : x + TILE + 2 * margin[1]]
        near = field.flatten(1).any(1).nonzero()[:, 0]
        used = near[:-1]
        if len(used):
            logits = F.conv2d(field[near][None], kernel[:, near], bias)[0]
            result[tile][used] = logits.to(result.dtype).softmax(0)[index[used]]
    return result


def prefers_tiles(module: Callable[[Tensor], Tensor], device: torch.device) -> bool:
    """Returns whether `tiled_probabilities` is faster than a ranking module on a device."""
    is_cpu = device.type not in FLAT_DEVICES
    return is_cpu and isinstance(module, SpatialRankingModule) and module.num_classes >= MIN_CLASSES


def joint_kernel(module: SpatialRankingModule, classes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Returns one convolution for all convolutions of the module.

    Args:
        module: ranking module.
        classes: U input channels to keep.

    Returns:
        kernel (T, U + 1, A, B), whose last input channel must be 1 in the image and 0 outside.
        bias (T,).
    """
    chains = [_chain_kernel(branch, classes) for branch in module.branches]
    return sum(kernel for kernel, _ in chains), sum(bias for _, bias in chains)


def _chain_kernel(convs: Sequence[nn.Conv2d], classes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Returns the same as `joint_kernel` for one or two convolutions, of which only one is longer than 1 per axis."""
    first, *others = convs
    kernel = first.weight[:, classes]
    ones = torch.zeros_like(kernel[:, :1])
    bias = first.bias
    for conv in others:
        edges = [side // 2 for side in kernel.shape[:1:-1] for _ in range(2)]
        ones = F.pad(torch.einsum("omab,m->oab", conv.weight, bias)[:, None], edges)
        kernel = torch.einsum("omab,micd->oiacbd", conv.weight, kernel).flatten(4, 5).flatten(2, 3)
        bias = conv.bias
    return torch.cat([kernel, ones], dim=1), bias

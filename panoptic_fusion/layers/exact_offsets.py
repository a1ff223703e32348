"""Offsets of deformable convolutions under autocast."""

import torch
from torch import Tensor, nn


def exact_offsets(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """The offsets that `conv` (see `offset_conv`) computes of `x`, in the type of its weights, also under autocast.

    In bfloat16 an offset of 3 pixels has steps of 1 / 64 of a pixel, and one of 100 pixels steps of 1 / 2.

    Args:
        conv: convolution with weights in float32 (or float64).
        x: (N, C, H, W) floating.

    Returns:
        (N, 2 * kh * kw, H', W') in the type of the weights, in pixels of x.
    """
    with torch.autocast(x.device.type, enabled=False):
        return conv(x.to(conv.weight.dtype))

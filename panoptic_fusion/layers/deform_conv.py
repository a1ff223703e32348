"""Deformable convolution (Dai et al., "Deformable Convolutional Networks", 2017) on torchvision's operator.

detectron2's own layer needs its compiled extension, has no bias and no backward pass on a CPU; this one has none of
these limits, and works under autocast.
"""

import torch
import torchvision.ops
from torch import Tensor, nn


def deform_conv2d(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
) -> Tensor:
    """`torchvision.ops.deform_conv2d` for any mix of floating types, in and out of autocast, on CPU and CUDA.

    torchvision has no kernel for bfloat16, and refuses inputs of two types, which is what autocast gives it: maps in
    half precision, weights in float32. Here half precision is computed in float32: positions between pixels, too, are
    then exact to a thousandth of a pixel.

    Args:
        x: (N, C, H, W) floating.
        offset: (N, 2 * kh * kw, H', W') floating, in pixels of x: (dy, dx) for each tap, taps row by row.
        weight: (D, C, kh, kw).
        bias: (D,) or None.
        stride, padding, dilation: as for a convolution; x is zero beyond its border.

    Returns:
        (N, D, H', W') in the type of x. Gradients reach x, offset, weight and bias, each in its own type.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        result = torchvision.ops.deform_conv2d(
            x.to(dtype),
            offset.to(dtype),
            weight.to(dtype),
            None if bias is None else bias.to(dtype),
            stride=stride,
            padding=padding,
            dilation=dilation,
        )
    return result.to(x.dtype)


class DeformConv2d(torchvision.ops.DeformConv2d):
    """`deform_conv2d` with its parameters, and optionally a norm. The offsets come from outside: see `offset_conv`."""

    def __init__(self, *args, norm: nn.Module | None = None, **kwargs):
        """
        Args:
            norm: of the result; None for none.
            args, kwargs: those of torchvision's DeformConv2d, which are those of nn.Conv2d.
        """
        super().__init__(*args, **kwargs)
        self.norm = norm

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        """See `deform_conv2d`."""
        settings = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        x = deform_conv2d(x, offset, self.weight, self.bias, **settings)
        return x if self.norm is None else self.norm(x)


def offset_conv(in_channels: int, kernel_size: int = 3, *, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    """The convolution that computes the offsets of a deformable one of the same kernel, stride and dilation.

    It is zero at first, so that training starts from an ordinary convolution.
    """
    channels, padding = 2 * kernel_size**2, dilation * (kernel_size // 2)
    conv = nn.Conv2d(in_channels, channels, kernel_size, stride, padding, dilation)
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    return conv

"""Deformable convolution (Dai et al., "Deformable Convolutional Networks", 2017) on torchvision's operator.

detectron2's own layer needs its compiled extension, and has no bias and no backward pass on a CPU. This layer has none
of these limits, and works under autocast.
"""

import torch
import torchvision.ops
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.utils import _pair

COLUMN_BYTES = 2**28  # maximum size of the samples of all taps at a time
FAR = 2.0**20  # pixels, past the border of any map: samples at this distance are zero, and so are their gradients


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
    """Computes `torchvision.ops.deform_conv2d` for any mix of floating types, even under autocast, on CPU and CUDA.

    torchvision has no kernel for bfloat16, and it rejects inputs of two types, which occur under autocast (maps in half
    precision, weights in float32). This function computes half precision in float32. It processes as many images at a
    time as fit COLUMN_BYTES of samples, but at least one. torchvision would unroll the whole batch.

    Offsets that are NaN, infinite or past the border sample zero. For NaN, torchvision's CPU kernel reads outside of
    the map, which ends the process without a message.

    Args:
        x: (N, C, H, W) floating, H and W less than `FAR`.
        offset: (N, 2 * kh * kw, H', W') floating, in pixels of x: (dy, dx) for each tap, taps row by row.
        weight: (D, C, kh, kw).
        bias: (D,) or None.
        stride, padding, dilation: as for a convolution. x is zero beyond its border.

    Returns:
        (N, D, H', W') in the type of x. x, offset, weight and bias get gradients, each in its own type.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    bias = None if bias is None else bias.to(dtype)
    settings = {"stride": _pair(stride), "padding": _pair(padding), "dilation": _pair(dilation)}
    if _is_exporting():  # one operator for any batch and size
        offset = _within_reach(offset.to(dtype))
        return torchvision.ops.deform_conv2d(x.to(dtype), offset, weight.to(dtype), bias, **settings).to(x.dtype)
    convolve = _sampled_deform_conv2d if x.device.type == "cpu" else torchvision.ops.deform_conv2d
    image_bytes = x[:1, :, :1, :1].numel() * offset[:1].numel() // 2 * dtype.itemsize
    images = max(1, COLUMN_BYTES // max(1, image_bytes))
    with torch.autocast(x.device.type, enabled=False):
        results = [
            convolve(own.to(dtype), _within_reach(own_offset.to(dtype)), weight.to(dtype), bias, **settings)
            for own, own_offset in zip(x.split(images), offset.split(images), strict=True)
        ]
    return (results[0] if len(results) == 1 else torch.cat(results)).to(x.dtype)


def _is_exporting() -> bool:
    """Returns whether the network is being converted for another runtime, such as ONNX."""
    return torch.onnx.is_in_onnx_export() or torch.compiler.is_exporting() or torch.jit.is_tracing()


def _within_reach(offset: Tensor) -> Tensor:
    """Clamps offsets to [-FAR, FAR] and replaces NaN by `FAR`. Other values and gradients do not change."""
    return offset.nan_to_num(nan=FAR).clamp(-FAR, FAR)


def _sampled_deform_conv2d(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> Tensor:
    """Computes `torchvision.ops.deform_conv2d` by bilinear sampling and a matrix product.

    On a CPU it is faster, above all in its backward pass. The map is padded with zeros to powers of two, so that
    integer positions are converted exactly to `grid_sample`'s range of -1 to 1 and back. At the start of a training run
    all positions are integers. With an inexact conversion, the gradient may come from the wrong side of the pixel.
    """
    (height, width), (kh, kw) = x.shape[-2:], weight.shape[-2:]
    sides = [1 << (length - 1).bit_length() for length in (height, width)]
    x = F.pad(x, (0, sides[1] - width, 0, sides[0] - height))
    places = []
    for axis, taps in enumerate((torch.arange(kh).repeat_interleave(kw), torch.arange(kw).repeat(kh))):
        cells = torch.arange(offset.shape[2 + axis]) * stride[axis] - padding[axis]
        cells = cells[:, None] if axis == 0 else cells
        place = (taps * dilation[axis])[:, None, None] + cells + offset[:, axis::2]  # (N, taps, H', W')
        places.append((2 * place + 1) / sides[axis] - 1)
    grid = torch.stack(places[::-1], dim=-1).flatten(1, 2)  # (N, taps * H', W', 2)
    columns = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    size = offset.shape[-2:]
    columns = columns.view(len(x), x.shape[1] * kh * kw, size.numel())
    result = (weight.flatten(1) @ columns).view(len(x), len(weight), *size)
    return result if bias is None else result + bias[:, None, None]


class DeformConv2d(torchvision.ops.DeformConv2d):
    """Layer of `deform_conv2d` with an optional norm. Offsets are an input, see `offset_conv`."""

    def __init__(self, *args, norm: nn.Module | None = None, **kwargs):
        """Builds the layer.

        Args:
            norm: norm of the result, or None.
            args, kwargs: forwarded to torchvision's DeformConv2d, which has the arguments of nn.Conv2d.
        """
        super().__init__(*args, **kwargs)
        self.norm = norm

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        """Applies `deform_conv2d` and the norm to `x` with the given offsets."""
        settings = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        x = deform_conv2d(x, offset, self.weight, self.bias, **settings)
        return x if self.norm is None else self.norm(x)


def offset_conv(in_channels: int, kernel_size: int = 3, *, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    """Builds the convolution for the offsets of a deformable convolution with the same kernel, stride and dilation.

    It is initialized to zero, so training starts from an ordinary convolution.
    """
    channels, padding = 2 * kernel_size**2, dilation * (kernel_size // 2)
    conv = nn.Conv2d(in_channels, channels, kernel_size, stride, padding, dilation)
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    return conv


def compute_offsets_fp32(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Computes the offsets of `conv` (see `offset_conv`) for `x` in the type of its weights, even under autocast.

    In bfloat16, the resolution is 1/64 pixel for an offset of 3 pixels and 1/2 pixel for an offset of 100 pixels.

    Args:
        conv: convolution with float32 (or float64) weights.
        x: (N, C, H, W) floating.

    Returns:
        (N, 2 * kh * kw, H', W') in the type of the weights, in pixels of x.
    """
    with torch.autocast(x.device.type, enabled=False):
        return conv(x.to(conv.weight.dtype))

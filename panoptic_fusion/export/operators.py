"""Translations of operators that torch's exporter does not know, as a context."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.onnx.symbolic_helper import parse_args

OPSET = 19  # the first one with DeformConv


@contextmanager
def exportable_operators() -> Iterator[None]:
    """Lets `torch.onnx.export` translate torchvision's deformable convolution inside the context."""
    torch.onnx.register_custom_op_symbolic("torchvision::deform_conv2d", _deform_conv2d, OPSET)
    try:
        yield
    finally:
        torch.onnx.unregister_custom_op_symbolic("torchvision::deform_conv2d", OPSET)


@parse_args("v", "v", "v", "v", "v", "i", "i", "i", "i", "i", "i", "i", "i", "b")
def _deform_conv2d(
    g: Any,
    x: Any,
    weight: Any,
    offset: Any,
    mask: Any,
    bias: Any,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    groups: int,
    offset_groups: int,
    use_mask: bool,
) -> Any:
    """Returns ONNX's DeformConv. Both operators store offsets as (dy, dx) for each tap, taps row by row.

    The arguments are those of torchvision's operator.
    """
    inputs = [x, weight, offset, bias, *([mask] if use_mask else [])]
    return g.op(
        "DeformConv",
        *inputs,
        strides_i=[stride_h, stride_w],
        pads_i=[pad_h, pad_w, pad_h, pad_w],
        dilations_i=[dilation_h, dilation_w],
        group_i=groups,
        offset_group_i=offset_groups,
    )

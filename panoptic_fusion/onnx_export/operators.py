"""Operators that torch's exporter does not know, or that onnxruntime cannot load as it writes them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.onnx.symbolic_helper import parse_args

if TYPE_CHECKING:
    import onnx

OPSET = 19  # the first one with DeformConv


@contextmanager
def exporting() -> Iterator[None]:
    """Prepares `torch.onnx.export` inside the context.

    torchvision's deformable convolution can be translated. Warnings are silenced: the tracer's about constants, which
    the comparison at other sizes checks, and those that the exporter based on tracing is deprecated.
    """
    torch.onnx.register_custom_op_symbolic("torchvision::deform_conv2d", _deform_conv2d, OPSET)
    try:
        with warnings.catch_warnings():
            for category in (torch.jit.TracerWarning, DeprecationWarning, FutureWarning, UserWarning):
                warnings.simplefilter("ignore", category)
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


def separate_half_norms(model: onnx.ModelProto) -> onnx.ModelProto:
    """Computes batch norms of float16 linear layers in float32, with casts around them; changes `model`.

    Their parameters are float32. onnxruntime (1.32) fuses such a norm with its MatMul and fails to load the model.
    """
    import onnx

    producers = {name: node for node in model.graph.node for name in node.output}
    nodes = []
    for node in model.graph.node:
        source = producers.get(node.input[0]) if node.op_type == "BatchNormalization" else None
        if source is None or source.op_type not in ("MatMul", "Gemm"):
            nodes.append(node)
            continue
        (result,) = node.output
        wide = onnx.helper.make_node("Cast", [node.input[0]], [f"{result}_input"], to=onnx.TensorProto.FLOAT)
        narrow = onnx.helper.make_node("Cast", [f"{result}_wide"], [result], to=onnx.TensorProto.FLOAT16)
        node.input[0], node.output[0] = wide.output[0], narrow.input[0]
        nodes += [wide, node, narrow]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model

"""Export of a network to an ONNX model, and its comparison with PyTorch before a file is written."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.export.torchscript_patch import patch_builtin_len
from torch import Tensor, nn
from torch.nn import functional as F

from panoptic_fusion.errors import UserError, one_line
from panoptic_fusion.files import write_atomically
from panoptic_fusion.modeling.fusion import SpatialRankingFusion
from panoptic_fusion.networks.inference import run_heads
from panoptic_fusion.runtime.exported_model import METADATA_KEY, RANKING_MODULE_KEY

from .agreement import FLOAT16, FLOAT32, Agreement, compare
from .description import describe, export_ranking_module
from .heads_graph import HeadsGraph, HeadsOutputs, heads_outputs, with_score_thresh
from .operators import OPSET, exporting, separate_half_norms
from .plain_norms import plain_norms

if TYPE_CHECKING:
    import onnx

INSTALL = "pip install 'panoptic-fusion[export]'"
SCORE_THRESH = "score_thresh"  # name of the buffer of `HeadsGraph`, and of the graph's initializer
LARGEST_CHECK = 512  # short side in pixels of the largest image that is compared


def import_onnx() -> None:
    """Imports onnx and onnxruntime. Raises UserError with the installation command if one is missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise UserError(f"an export needs onnx and onnxruntime ({error}): {INSTALL}") from error


def export_network(
    cfg: CfgNode,
    network: nn.Module,
    path: str | os.PathLike,
    *,
    size: tuple[int, int] | None = None,
    batch: int = 1,
    half: bool = False,
) -> dict[str, Any]:
    """Writes a network as an ONNX file with a description of its pre- and postprocessing.

    The file is only written if its outputs agree with PyTorch's. They are compared on random images of several sizes
    (of `size` if given), without a score threshold, so that boxes and masks are compared even if the network finds
    nothing in such images.

    Args:
        cfg: resolved config of the network, for which `check_exportable` passes.
        network: `PanopticRCNN` in eval mode on the CPU.
        path: file to write.
        size: (height, width) of all images; None allows any size.
        batch: number of images per run.
        half: whether the network computes in float16. Inputs, outputs and box coordinates stay float32.

    Returns:
        The description, with "bytes", the size of the file, and "checks", an `Agreement` as a dict with "size" for each
        compared size.

    Raises:
        UserError: if the network cannot be exported, or the export disagrees with it; no file is written.
    """
    import_onnx()
    import onnx

    description = describe(cfg, network, size=size, batch=batch, half=half)
    metadata = {METADATA_KEY: json.dumps(description)}
    with torch.no_grad():
        if isinstance(network.fusion, SpatialRankingFusion):
            metadata[RANKING_MODULE_KEY] = export_ranking_module(network.fusion)
        divisor = max(1, network.backbone.size_divisibility)
        example = torch.zeros(batch, 3, *(size or (3 * divisor - 3, 4 * divisor - 5)))
        try:
            model = trace(network, example, dynamic=size is None, half=half)
            onnx.helper.set_model_props(model, metadata)
            onnx.checker.check_model(model, full_check=True)
        except (RuntimeError, ValueError, TypeError, IndexError, onnx.checker.ValidationError) as error:
            raise UserError(
                f"this network cannot be exported: {type(error).__name__}: {one_line(error)[:500]}"
            ) from error
        sizes = [size, size] if size else check_sizes(cfg, divisor)
        checks = [check_agreement(model, network, batch, s, seed, half=half) for seed, s in enumerate(sizes)]
    set_score_thresh(model, network.roi_heads.box_predictor.test_score_thresh)
    content = model.SerializeToString()
    write_atomically(path, lambda file: file.write(content))
    reports = [{"size": list(s), **asdict(check)} for s, check in zip(sizes, checks, strict=True)]
    return {**description, "bytes": len(content), "checks": reports}


def check_sizes(cfg: CfgNode, divisor: int) -> list[tuple[int, int]]:
    """Returns the sizes (height, width) to compare: one upright and odd, one as large as the config's images."""
    short = min(cfg.INPUT.MIN_SIZE_TEST or LARGEST_CHECK, LARGEST_CHECK)
    return [(4 * divisor + 7, 2 * divisor + 1), (short, short * 4 // 3)]


def trace(network: nn.Module, example: Tensor, *, dynamic: bool, half: bool) -> onnx.ModelProto:
    """Records a network as an ONNX model, see `HeadsGraph`.

    Args:
        network: `PanopticRCNN` in eval mode.
        example: (N, 3, H, W) float32 images.
        dynamic: whether the model takes images of any size.
        half: see `export_network`.
    """
    import onnx

    file = io.BytesIO()
    names = list(HeadsOutputs._fields)
    axes = {name: {0: "instances"} for name in names[1:]}
    if dynamic:
        axes |= {"image": {2: "height", 3: "width"}, names[0]: {2: "logits_height", 3: "logits_width"}}
    with ExitStack() as stack:
        stack.enter_context(exporting())
        stack.enter_context(patch_builtin_len())
        stack.enter_context(plain_norms(network))
        if half:
            stack.enter_context(_half_precision(network))
        torch.onnx.export(
            HeadsGraph(network).eval(),
            (example,),
            file,
            dynamo=False,  # torch.export cannot record detectron2's proposals, see docs/deploy.md
            opset_version=OPSET,
            input_names=["image"],
            output_names=names,
            dynamic_axes=axes,
        )
    model = onnx.load_from_string(file.getvalue())
    return separate_half_norms(model) if half else model


def set_score_thresh(model: onnx.ModelProto, value: float) -> None:
    """Changes the score threshold of the detections in a model of `trace`."""
    import onnx

    (tensor,) = (t for t in model.graph.initializer if t.name == SCORE_THRESH)
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.float32(value), SCORE_THRESH))


def check_agreement(
    model: onnx.ModelProto, network: nn.Module, batch: int, size: tuple[int, int], seed: int, *, half: bool
) -> Agreement:
    """Compares a model of `trace` with its network on random images without a score threshold, see `compare`.

    Raises:
        UserError: if they disagree, or onnxruntime cannot run the model.
    """
    import onnxruntime

    images = random_images(batch, size, seed)
    set_score_thresh(model, 0)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        exported = HeadsOutputs(*session.run(list(HeadsOutputs._fields), {"image": images.numpy()}))
    except Exception as error:  # onnxruntime has no common base class of its errors
        raise UserError(f"onnxruntime cannot run the exported network: {one_line(error)[:500]}") from error
    agreement = compare(torch_outputs(network, images, 0), exported, FLOAT16 if half else FLOAT32)
    if agreement.problem:
        raise UserError(
            f"the export disagrees with PyTorch on images of {size[0]} x {size[1]}: {agreement.problem}; no file was "
            "written"
        )
    return agreement


def torch_outputs(network: nn.Module, images: Tensor, score_thresh: float) -> HeadsOutputs:
    """Returns PyTorch's outputs for images (N, 3, H, W) as numpy arrays, with the network's own preprocessing."""
    with torch.no_grad(), with_score_thresh(network, score_thresh):
        outputs = heads_outputs(run_heads(network, [{"image": image} for image in images]))
    return HeadsOutputs(*(x.numpy() for x in outputs))


def random_images(batch: int, size: Sequence[int], seed: int) -> Tensor:
    """Returns images (batch, 3, H, W) float32 of smooth shapes and noise, integers in 0..255."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 3, 6, 8, generator=generator)
    images = F.interpolate(coarse, size=tuple(size), mode="bicubic") * 220 + 15
    return (images + 20 * torch.randn(images.shape, generator=generator)).clamp(0, 255).round()


@contextmanager
def _half_precision(network: nn.Module) -> Iterator[None]:
    """Runs convolutions and linear layers in float16; the RoI heads pool from float32 maps.

    detectron2's poolers convert boxes to the type of the maps, and float16 has no fractions of pixels above 1024.
    """

    def to_float32(module: nn.Module, inputs: tuple) -> tuple:
        images, features, *rest = inputs
        return images, {name: x.float() for name, x in features.items()}, *rest

    hook = network.roi_heads.register_forward_pre_hook(to_float32)
    try:
        with torch.autocast("cpu", dtype=torch.float16, cache_enabled=False):
            yield
    finally:
        hook.remove()

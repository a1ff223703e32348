"""Description of an exported network: everything that pre- and postprocessing need, as JSON in the file's metadata."""

from __future__ import annotations

import base64
import io
import sys

import torch
from detectron2.config import CfgNode
from torch import nn

from panoptic_fusion.errors import ConfigError, UserError
from panoptic_fusion.modeling.fusion import SpatialRankingFusion
from panoptic_fusion.runtime.exported_model import FORMAT, OUTPUTS
from panoptic_fusion.runtime.settings import NEEDED, needed_settings

from .operators import OPSET, exporting


def check_exportable(cfg: CfgNode) -> None:
    """Checks that the network of a config can be exported, before it is built.

    Raises:
        ConfigError, UserError: it cannot; the message names the reason.
    """
    name = cfg.MODEL.META_ARCHITECTURE
    if name == "IndependentPanoptic":
        raise UserError(
            "MODEL.META_ARCHITECTURE is IndependentPanoptic, which is two networks: only single networks can be "
            "exported, so pass the OUTPUT_DIR of a PanopticRCNN"
        )
    if name != "PanopticRCNN":
        raise UserError(f"MODEL.META_ARCHITECTURE is {name}: only a PanopticRCNN can be exported")
    if cfg.TEST.AUG.ENABLED:
        raise ConfigError("TEST.AUG.ENABLED is True, but an exported network has one view: add TEST.AUG.ENABLED False")


def describe(cfg: CfgNode, network: nn.Module, *, size: tuple[int, int] | None, batch: int, half: bool) -> dict:
    """Returns the JSON content of the metadata; docs/deploy.md describes its keys.

    Args:
        cfg: resolved config of the network.
        network: `PanopticRCNN`.
        size: (height, width) of all images, or None.
        batch: number of images per run.
        half: whether the network computes in float16.

    Raises:
        UserError: if the fusion is not one of this project, so that the runtime does not know its rule.
    """
    import onnx

    fusion, name = network.fusion, type(network.fusion).__name__
    if name not in NEEDED:
        raise UserError(
            f"MODEL.PANOPTIC_FUSION.NAME is {name}, which the runtime does not have: it has {', '.join(NEEDED)}"
        )
    own = {"name": name, "at_input_resolution": bool(network.fuse_at_input_resolution)}
    return {
        "format": FORMAT,
        "system": f"{cfg.MODEL.SEM_SEG_HEAD.NAME} + {name}",
        "categories": sorted(map(dict, cfg.MODEL.CATEGORIES), key=lambda category: category["id"]),
        "ontology": fusion.ontology,
        "fusion": {**own, **{key: getattr(fusion, key) for key in sorted(needed_settings(name) - own.keys())}},
        "input": {
            "format": cfg.INPUT.FORMAT,
            "min_size": cfg.INPUT.MIN_SIZE_TEST,
            "max_size": cfg.INPUT.MAX_SIZE_TEST,
            "interpolation": "bilinear",
            "size": None if size is None else list(size),
            "batch": batch,
            "size_divisibility": network.backbone.size_divisibility,
            "pixel_mean": [float(value) for value in cfg.MODEL.PIXEL_MEAN],
            "pixel_std": [float(value) for value in cfg.MODEL.PIXEL_STD],
        },
        "outputs": [output for output in OUTPUTS if output in network.outputs],
        "precision": "float16" if half else "float32",
        "opset": OPSET,
        "versions": {
            "panoptic_fusion": sys.modules["panoptic_fusion"].__version__,
            "torch": str(torch.__version__),
            "onnx": onnx.__version__,
        },
    }


def export_ranking_module(fusion: SpatialRankingFusion) -> str:
    """Returns the spatial ranking module as an ONNX model of its own, in base64.

    Its input `channels` and output `logits` are (1, T, h, w) float32, T is the number of thing classes.
    """
    file = io.BytesIO()
    with exporting():
        torch.onnx.export(
            fusion.srm,
            (torch.zeros(1, fusion.label_space.num_things, 9, 11),),
            file,
            dynamo=False,
            opset_version=OPSET,
            input_names=["channels"],
            output_names=["logits"],
            dynamic_axes={name: {2: "height", 3: "width"} for name in ("channels", "logits")},
        )
    return base64.b64encode(file.getvalue()).decode("ascii")

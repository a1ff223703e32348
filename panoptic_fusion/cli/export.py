"""Exports a trained network to ONNX, to run it without torch and detectron2.

    panoptic-fusion export --model output/toy --output model.onnx [--size 480 640] [--batch 4] [--half] [KEY VALUE ...]

The file holds normalization, padding, backbone and heads, and a description of the classes, the fusion and the image
sizes. The fusion itself runs after the network, in numpy: `panoptic_fusion.runtime.OnnxPredictor`. The export is
compared with PyTorch on images of several sizes. If they disagree, no file is written. See docs/deploy.md.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from panoptic_fusion.errors import UserError

from .arguments import add_model, add_opts, add_zoo, check_at_least_one
from .source import check_source, load_source_config

HELP = "export a trained model to ONNX, to run it without torch"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the model, the file and the shape and type of its inputs."""
    add_model(parser)
    add_zoo(parser)
    parser.add_argument("--output", required=True, help="the file to write, such as model.onnx")
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="only images that INPUT.MIN_SIZE_TEST and MAX_SIZE_TEST resize to this size; default: any size",
    )
    parser.add_argument("--batch", type=int, default=1, help="images per run, all of one size (default: 1)")
    parser.add_argument("--half", action="store_true", help="compute in float16; inputs and outputs stay float32")
    add_opts(parser)


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    names = ("zoo", "weights", "output", "size", "batch", "half", "opts", "allow_download")
    report = export(args.model, args.config_file, **{name: getattr(args, name) for name in names})
    print(f"{args.output}: {report['bytes'] / 1e6:.1f} MB, {report['system']}, {report['precision']}")
    for check in report["checks"]:
        height, width = check["size"]
        print(
            f"  {height} x {width}: {check['matched']} of {check['detections']} detections match PyTorch's; logits "
            f"differ by at most {check['sem_seg_logits']:.1e} (semantic) and {check['mask_logits']:.1e} (masks)"
        )


def export(
    model: str | None = None,
    config_file: str | None = None,
    *,
    zoo: str | None = None,
    weights: str | os.PathLike | None = None,
    output: str | os.PathLike,
    size: Sequence[int] | None = None,
    batch: int = 1,
    half: bool = False,
    opts: Sequence[str] = (),
    allow_download: bool = False,
) -> dict[str, Any]:
    """Exports a trained network to an ONNX file that `panoptic_fusion.runtime.OnnxPredictor` runs.

    Args:
        model: OUTPUT_DIR of a training run.
        config_file: config whose MODEL.WEIGHTS is used, instead of `model`.
        zoo: model of detectron2's zoo, such as "panoptic_fpn_r50_coco" (docs/zoo.md), instead of `model`.
        weights: path to a file to use instead of the download; only with `zoo`.
        output: file to write.
        size: (height, width) of all images after resizing; default: any size.
        batch: number of images per run.
        half: whether the network computes in float16.
        opts: sequence KEY, VALUE, KEY, VALUE, ... that changes the config.
        allow_download: whether to download weights from any address in the config, see `check_downloads`.

    Returns:
        The description in the file (docs/deploy.md), with "bytes", the size of the file, and "checks", the comparison
        with PyTorch for each size: "size", "detections", "matched", "sem_seg_logits" and "mask_logits", the largest
        differences of the two.

    Raises:
        UserError, FileNotFoundError: no file was written; the message names the problem.
    """
    check_source(model, config_file, zoo, weights)
    check_at_least_one(batch, "--batch")
    if size is not None and min(size) < 1:
        raise UserError(f"--size is {size[0]} {size[1]}: use 1 or more pixels")
    if Path(output).is_dir():
        raise UserError(f"--output {os.fspath(output)} is a folder: name the file, such as model.onnx")

    from panoptic_fusion.files import check_writable
    from panoptic_fusion.networks.trained import build_predictor
    from panoptic_fusion.onnx_export.description import check_exportable
    from panoptic_fusion.onnx_export.onnx_model import export_network, import_onnx

    import_onnx()
    folder = Path(output).parent
    check_writable(str(folder), "--output")
    words = [*opts, "MODEL.DEVICE", "cpu"]
    cfg = load_source_config(model, config_file, zoo, weights, words, allow_download=allow_download)
    check_exportable(cfg)
    network = build_predictor(cfg).model
    folder.mkdir(parents=True, exist_ok=True)
    return export_network(cfg, network, output, size=(size[0], size[1]) if size else None, batch=batch, half=half)

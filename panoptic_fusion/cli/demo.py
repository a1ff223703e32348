"""Segments images, folders of images, globs or videos with a trained model.

    panoptic-fusion demo --model output/toy --input street.jpg photos/ "more/*.png" drive.mp4 --output segmented
    panoptic-fusion demo --onnx model.onnx --input photos/ --output segmented

For each image or video frame it writes a visualization (NAME.jpg, at most 4096 pixels wide and high) and the panoptic
map as a PNG of segment ids (NAME.png, in full size, id = R + 256 G + 65536 B, 0 = void). panoptic.json lists the
segments of all images in COCO panoptic format. It is valid after each image, even if the command is killed.
`panoptic-fusion evaluate --pred-json` reads it. Things are followed through a video: each keeps its color, and its
`track_id` in panoptic.json. With --onnx, neither torch nor detectron2 is needed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from panoptic_fusion.errors import UserError, counted, plain_line

from .arguments import add_model, add_opts, add_zoo
from .source import check_source, load_source_config

if TYPE_CHECKING:
    import numpy as np

    from .demo_images import Output, Source

HELP = "segment images and videos with a trained model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the model, the inputs and the output folder."""
    add_model(parser)
    add_zoo(parser)
    parser.add_argument("--onnx", metavar="FILE", help="instead of --model: a model file of `panoptic-fusion export`")
    parser.add_argument(
        "--provider", nargs="+", metavar="NAME", help="with --onnx: cpu, cuda or tensorrt, the preferred one first"
    )
    parser.add_argument("--input", nargs="+", required=True, help="images, folders, globs or videos")
    parser.add_argument("--output", required=True, help="folder for the results")
    parser.add_argument("--alpha", type=float, default=0.6, help="opacity of the segments in the pictures, 0 to 1")
    parser.add_argument("--scores", action="store_true", help="write the scores of things into the pictures")
    parser.add_argument("--video", action="store_true", help="also write an annotated video per video")
    parser.add_argument("--cutouts", action="store_true", help="also write each segment as a PNG with transparency")
    parser.add_argument(
        "--instances-json", action="store_true", help="also write the things as COCO instances, in instances.json"
    )
    add_opts(parser, "--opts")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns 1 if a file was skipped."""
    found = demo(
        args.model,
        args.config_file,
        zoo=args.zoo,
        weights=args.weights,
        onnx=args.onnx,
        providers=args.provider,
        inputs=args.input,
        output=args.output,
        alpha=args.alpha,
        scores=args.scores,
        video=args.video,
        cutouts=args.cutouts,
        instances_json=args.instances_json,
        opts=args.opts,
        allow_download=args.allow_download,
    )
    requested = {"videos": args.video, "cut-outs": args.cutouts, "instances.json": args.instances_json}
    written = ", ".join(["pictures", "panoptic PNGs", *(name for name, wanted in requested.items() if wanted)])
    print(f"{counted(len(found['annotations']), 'image')}: {written} and panoptic.json in {args.output}")
    if found["images"] and not args.onnx:  # the report needs torch
        from panoptic_fusion.evaluation.report.one_side import write_prediction_report

        title = os.path.basename(args.model or args.zoo or args.config_file) or "predictions"
        print(f"Report: {write_prediction_report(Path(args.output, 'panoptic.json'), args.output, args.output, title)}")
    for message in found["unreadable"]:
        print(f"skipped: {plain_line(message)}", file=sys.stderr)
    return 1 if found["unreadable"] else 0


def demo(
    model: str | None = None,
    config_file: str | None = None,
    *,
    zoo: str | None = None,
    weights: str | os.PathLike | None = None,
    onnx: str | os.PathLike | None = None,
    providers: Sequence[str] | None = None,
    inputs: Iterable[str | os.PathLike],
    output: str | os.PathLike,
    alpha: float = 0.6,
    scores: bool = False,
    video: bool = False,
    cutouts: bool = False,
    instances_json: bool = False,
    opts: Sequence[str] = (),
    allow_download: bool = False,
) -> dict[str, list]:
    """Segments images and videos; writes visualizations, PNGs of segment ids and panoptic.json.

    Args:
        model: OUTPUT_DIR of a training run.
        config_file: config whose MODEL.WEIGHTS is used, instead of `model`.
        zoo: model of detectron2's zoo, such as "panoptic_fpn_r50_coco" (docs/zoo.md), instead of `model`.
        weights: path to a file to use instead of the download; only with `zoo`.
        onnx: model file of `panoptic-fusion export`, instead of `model`.
        providers: execution providers of onnxruntime, see `OnnxPredictor`; only with `onnx`. None: the CPU.
        inputs: images, folders, globs or videos.
        output: folder for the results, which must not contain the inputs.
        alpha: opacity of the segments in the visualizations, in [0, 1].
        scores: whether to write the scores of things into the visualizations.
        video: whether to write an annotated video per video, see `VideoFile`.
        cutouts: whether to write each segment as an RGBA PNG, see `Cutouts`.
        instances_json: whether to write the things as COCO instances, see `InstancesJson`.
        opts: sequence KEY, VALUE, KEY, VALUE, ... that changes the config.
        allow_download: whether to download weights from any address in the config, see `check_downloads`.

    Returns:
        "images", "annotations" and "categories" as in panoptic.json, which is COCO panoptic, and "unreadable": a
        message per file that could not be read or segmented. The id of an image is the name of its PNG without the
        suffix. Its `file_name` is its path; the `file_name` of a video frame is VIDEO/NAME. Annotations also have the
        path of their file as `image`; segments also have `category` (the class name), `isthing`, and those of things
        `score`, and in a video `track_id`.

    Raises:
        UserError, FileNotFoundError: nothing was segmented; the message names the problem.
    """
    if onnx:
        check_onnx_source(model, config_file, zoo, weights, opts)
    else:
        check_source(model, config_file, zoo, weights, "--onnx FILE")
    if providers and not onnx:
        raise UserError("--provider needs --onnx FILE")
    if not 0 <= alpha <= 1:
        raise UserError(f"--alpha is {alpha}: use a number from 0 to 1")

    from panoptic_fusion.data.frames import find_files
    from panoptic_fusion.files import check_writable, remove_partial_files

    from .demo_images import segment_files
    from .demo_outputs import Cutouts, IdMaps, InstancesJson, PanopticJson, Pictures, Videos

    output = os.fspath(output)
    files = find_files(inputs)
    check_apart(files, output)
    check_writable(output, "--output")
    if onnx:
        source = open_onnx(onnx, providers or ("cpu",))
    else:
        source = load_source(model, config_file, zoo, weights, opts, allow_download)
    os.makedirs(output, exist_ok=True)
    remove_partial_files(output)
    categories = source.label_space.to_categories()
    with ExitStack() as stack:
        videos = stack.enter_context(Videos(output)) if video else None
        panoptic = stack.enter_context(PanopticJson(output, categories))
        outputs: list[Output] = [Pictures(output, alpha, scores, videos), IdMaps(output)]
        if cutouts:
            outputs.append(Cutouts(output))
        if instances_json:
            outputs.append(stack.enter_context(InstancesJson(output, categories)))
        outputs.append(panoptic)  # the last one, so that it lists images whose files are finished
        skipped = segment_files(source, files, outputs)
    return {
        "images": panoptic.images,
        "annotations": panoptic.annotations,
        "categories": categories,
        "unreadable": skipped,
    }


def check_apart(files: Iterable[Path], output: str) -> None:
    """Checks that no input lies in the output folder, where an output could replace it.

    Raises:
        UserError: one does.
    """
    for file in files:
        if os.path.realpath(file.parent) == os.path.realpath(output):
            raise UserError(f"--output {output} holds the input {file.name}: choose another folder")


def load_source(
    model: str | None,
    config_file: str | None,
    zoo: str | None,
    weights: str | os.PathLike | None,
    opts: Sequence[str],
    allow_download: bool,
) -> Source:
    """Loads a network that outputs only the panoptic map; see `demo` for the arguments.

    Raises:
        UserError, FileNotFoundError: it cannot be loaded, or has no panoptic output.
    """
    from panoptic_fusion.data.label_space import LabelSpace
    from panoptic_fusion.networks.trained import build_predictor, check_is_panoptic

    from .demo_images import Source

    words = [*opts, "MODEL.PANOPTIC_FUSION.OUTPUTS", "['panoptic_seg']"]
    cfg = load_source_config(model, config_file, zoo, weights, words, allow_download=allow_download)
    check_is_panoptic(cfg, zoo or model or config_file or "")
    predictor = build_predictor(cfg)

    def predict(image: np.ndarray) -> tuple[np.ndarray, list[dict[str, Any]]]:
        panoptic_seg, segments_info = predictor(image)["panoptic_seg"]
        return panoptic_seg.cpu().numpy(), segments_info

    return Source(predict, LabelSpace.from_categories(cfg.MODEL.CATEGORIES), cfg.INPUT.MAX_PIXELS)


def check_onnx_source(
    model: str | None,
    config_file: str | None,
    zoo: str | None,
    weights: str | os.PathLike | None,
    opts: Sequence[str],
) -> None:
    """Checks that no other source or config is specified than the model file; see `demo` for the arguments.

    Raises:
        UserError: one is.
    """
    given = {"--model": model, "--config-file": config_file, "--zoo": zoo, "--weights": weights, "--opts": opts}
    for name, value in given.items():
        if value:
            raise UserError(f"--onnx is a model with its settings: leave out {name}")


def open_onnx(path: str | os.PathLike, providers: Sequence[str]) -> Source:
    """Opens a model file, without torch; see `OnnxPredictor` for the arguments and the errors."""
    from panoptic_fusion.data.image_header import MAX_PIXELS
    from panoptic_fusion.runtime import OnnxPredictor

    from .demo_images import Source

    predictor = OnnxPredictor(path, providers=providers, outputs=("panoptic_seg",))
    return Source(lambda image: predictor(image)["panoptic_seg"], predictor.model.label_space, MAX_PIXELS)

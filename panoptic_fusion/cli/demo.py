"""Segments images, folders of images, globs or videos with a trained model.

    panoptic-fusion demo --model output/toy --input street.jpg photos/ "more/*.png" drive.mp4 --output segmented

For each image or video frame it writes a visualization (NAME.jpg, at most 4096 pixels wide and high) and the panoptic
map as a PNG of segment ids (NAME.png, in full size, id = R + 256 G + 65536 B, 0 = void). panoptic.json lists the
segments of all images in COCO panoptic format. It is valid after each image, also if the command is killed.
`panoptic-fusion evaluate --pred-json` reads it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from panoptic_fusion.errors import DiskError, UserError, one_line

from .arguments import add_model, add_opts, add_zoo, check_model

if TYPE_CHECKING:
    import numpy as np
    from detectron2.data.catalog import Metadata
    from detectron2.engine import DefaultPredictor

HELP = "segment images and videos with a trained model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the model, the inputs and the output folder."""
    add_model(parser)
    add_zoo(parser)
    parser.add_argument("--input", nargs="+", required=True, help="images, folders, globs or videos")
    parser.add_argument("--output", required=True, help="folder for the results")
    parser.add_argument("--alpha", type=float, default=0.6, help="opacity of the segments in the pictures, 0 to 1")
    parser.add_argument("--scores", action="store_true", help="write the scores of things into the pictures")
    add_opts(parser, "--opts")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns 1 if a file was skipped."""
    found = demo(
        args.model,
        args.config_file,
        zoo=args.zoo,
        weights=args.weights,
        inputs=args.input,
        output=args.output,
        alpha=args.alpha,
        scores=args.scores,
        opts=args.opts,
        allow_download=args.allow_download,
    )
    print(f"{len(found['annotations'])} images: pictures, panoptic PNGs and panoptic.json in {args.output}")
    for message in found["unreadable"]:
        print(f"skipped: {' '.join(message.split())}", file=sys.stderr)
    return 1 if found["unreadable"] else 0


def demo(
    model: str | None = None,
    config_file: str | None = None,
    *,
    zoo: str | None = None,
    weights: str | os.PathLike | None = None,
    inputs: Iterable[str | os.PathLike],
    output: str | os.PathLike,
    alpha: float = 0.6,
    scores: bool = False,
    opts: Sequence[str] = (),
    allow_download: bool = False,
) -> dict[str, list]:
    """Segments images and videos; writes visualizations, PNGs of segment ids and panoptic.json.

    Args:
        model: OUTPUT_DIR of a training run.
        config_file: config whose MODEL.WEIGHTS is used, instead of `model`.
        zoo: model of detectron2's zoo, such as "panoptic_fpn_r50_coco" (docs/zoo.md), instead of `model`.
        weights: path to a file to use instead of the download; only with `zoo`.
        inputs: images, folders, globs or videos.
        output: folder for the results, which must not contain the inputs.
        alpha: opacity of the segments in the visualizations, in [0, 1].
        scores: whether to write the scores of things into the visualizations.
        opts: sequence KEY, VALUE, KEY, VALUE, ... that changes the config.
        allow_download: whether to download weights from any address in the config, see `check_downloads`.

    Returns:
        "images", "annotations" and "categories" as in panoptic.json, which is COCO panoptic, and "unreadable": a
        message per file that could not be read or segmented. The id of an image is the name of its PNG without the
        suffix. Its `file_name` is its path; the `file_name` of a video frame is VIDEO/NAME. Annotations also have the
        path of their file as `image`; segments also have `category` (the class name), `isthing`, and those of things
        `score`.

    Raises:
        UserError, FileNotFoundError: nothing was segmented; the message names the problem.
    """
    check_source(model, config_file, zoo, weights)
    if not 0 <= alpha <= 1:
        raise UserError(f"--alpha is {alpha}: use a number from 0 to 1")

    from tqdm import tqdm

    from panoptic_fusion.data.frames import count_frames, find_files, frames_of
    from panoptic_fusion.engine.preflight import check_writable
    from panoptic_fusion.files import remove_partial_files, safe_name, unused_name
    from panoptic_fusion.growing_json import GrowingJson
    from panoptic_fusion.networks import load_zoo
    from panoptic_fusion.networks.trained import build_predictor, load_config

    output = os.fspath(output)
    files = find_files(inputs)
    for file in files:
        if os.path.realpath(file.parent) == os.path.realpath(output):
            raise UserError(f"--output {output} holds the input {file.name}: choose another folder")
    check_writable(output, "--output")
    words = [*opts, "MODEL.PANOPTIC_FUSION.OUTPUTS", "['panoptic_seg']"]
    if zoo:
        cfg = load_zoo(zoo, words, weights)
    else:
        cfg = load_config(model, config_file, words, allow_download=allow_download)
    if not cfg.MODEL.PANOPTIC_FUSION.OUTPUTS:
        raise UserError(
            f"{zoo or model or config_file} is a {cfg.MODEL.META_ARCHITECTURE}, which has no panoptic output: choose a "
            "panoptic model"
        )
    predictor = build_predictor(cfg)

    os.makedirs(output, exist_ok=True)
    remove_partial_files(output)
    images: list[dict] = []
    annotations: list[dict] = []
    skipped: list[str] = []
    used: set[str] = set()
    categories = list(cfg.MODEL.CATEGORIES)
    frames = tqdm(
        frames_of(files, skipped, cfg.INPUT.MAX_PIXELS),
        total=sum(map(count_frames, files)),
        unit="image",
        mininterval=1,
        disable=None,
    )
    path = os.path.join(output, "panoptic.json")
    with GrowingJson(path, {"categories": categories}, ("images", "annotations")) as written:
        for file, frame, image in frames:
            name = unused_name(safe_name(frame), used)
            height, width = image.shape[:2]
            source = printable(file if frame == file.stem else file / frame)
            listed = {"id": name, "file_name": source, "width": width, "height": height}
            try:
                found = segment(predictor, image, name, output, alpha, scores)
            except DiskError as error:
                raise DiskError(f"{len(annotations)} images are done: {error}") from error
            except Exception as error:  # such as a strip one pixel wide, or an image too large for the memory
                skipped.append(f"{printable(file)}: {type(error).__name__}: {one_line(error)[:300]}")
                continue
            entry = {"image_id": name, "image": printable(file), **found}
            written.append(listed, entry)
            images.append(listed)
            annotations.append(entry)
    return {"images": images, "annotations": annotations, "categories": categories, "unreadable": skipped}


def check_source(
    model: str | None, config_file: str | None, zoo: str | None, weights: str | os.PathLike | None
) -> None:
    """Checks that exactly one source of the network is specified; see `demo` for the arguments.

    Raises:
        UserError: no source is specified, or the arguments exclude each other.
    """
    if zoo and (model or config_file):
        raise UserError("--zoo is a model of its own: leave out --model and --config-file")
    if weights and not zoo:
        raise UserError("--weights needs --zoo NAME; with --config-file, pass the file as --opts MODEL.WEIGHTS FILE")
    if not zoo:
        check_model(model, config_file)


def printable(path: os.PathLike) -> str:
    """Returns a path as text for JSON and any terminal, with question marks for bytes that are not UTF-8."""
    return os.fsencode(path).decode("utf-8", "replace")


def segment(predictor: DefaultPredictor, image: np.ndarray, name: str, output: str, alpha: float, scores: bool) -> dict:
    """Segments one BGR image, writes its visualization and its PNG, and returns its PNG and segments as in the JSON."""
    from panoptic_fusion.data.annotation import label_extents, label_map
    from panoptic_fusion.evaluation import write_panoptic_png
    from panoptic_fusion.files import write_image
    from panoptic_fusion.visualization import draw_panoptic

    panoptic_seg, segments_info = predictor(image)["panoptic_seg"]
    ids = panoptic_seg.cpu().numpy()
    picture = draw_panoptic(image[:, :, ::-1], ids, segments_info, predictor.metadata, alpha, scores)
    quality = 95 if max(picture.shape) <= 2048 else 88  # 4096 x 2731 pixels of a photo: 2.2 instead of 3.3 MB
    write_image(os.path.join(output, f"{name}.jpg"), picture, quality)
    write_panoptic_png(os.path.join(output, f"{name}.png"), ids)
    del picture
    boxes, areas = label_extents(label_map(ids, segments_info, report=lambda fault: None), len(segments_info))
    segments = [
        {**named(info, predictor.metadata), "area": area, "bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": 0}
        for info, (x0, y0, x1, y1), area in zip(segments_info, boxes.tolist(), areas.tolist(), strict=True)
    ]
    return {"file_name": f"{name}.png", "segments_info": segments}


def named(info: dict, metadata: Metadata) -> dict:
    """Adds the class name to a segment, and replaces its contiguous class by the category id in MODEL.CATEGORIES."""
    kind = "thing" if info["isthing"] else "stuff"
    category = info["category_id"]
    back = {v: k for k, v in metadata.get(f"{kind}_dataset_id_to_contiguous_id").items()}
    return {**info, "category_id": back[category], "category": metadata.get(f"{kind}_classes")[category]}

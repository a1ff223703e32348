"""Segments images, folders of images, globs or videos with a trained model.

    panoptic-fusion demo --model output/toy --input street.jpg photos/ "more/*.png" drive.mp4 --output segmented

For each image or video frame it writes a picture (NAME.jpg), the panoptic map as a PNG of segment ids
(NAME.png, id = R + 256 G + 65536 B, 0 = void), and for all of them panoptic.json with the segments.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from panoptic_fusion.errors import UserError

from .arguments import add_model, add_opts, check_model

if TYPE_CHECKING:
    import numpy as np
    from detectron2.data.catalog import Metadata
    from detectron2.engine import DefaultPredictor

HELP = "segment images and videos with a trained model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the model, the images and the folder."""
    add_model(parser)
    parser.add_argument("--input", nargs="+", required=True, help="images, folders, globs or videos")
    parser.add_argument("--output", required=True, help="folder for the results")
    parser.add_argument("--alpha", type=float, default=0.6, help="opacity of the segments in the pictures, 0 to 1")
    add_opts(parser, "--opts")


def run(args: argparse.Namespace) -> int:
    """Runs the command line; 1 if some file could not be read."""
    found = demo(args.model, args.config_file, inputs=args.input, output=args.output, alpha=args.alpha, opts=args.opts)
    print(f"{len(found['annotations'])} images: pictures, panoptic PNGs and panoptic.json in {args.output}")
    for message in found["unreadable"]:
        print(f"skipped: {message}", file=sys.stderr)
    return 1 if found["unreadable"] else 0


def demo(
    model: str | None = None,
    config_file: str | None = None,
    *,
    inputs: Iterable[str | os.PathLike],
    output: str | os.PathLike,
    alpha: float = 0.6,
    opts: Sequence[str] = (),
) -> dict[str, list]:
    """Segments images and videos; writes pictures, PNGs of segment ids and panoptic.json.

    Args:
        model: OUTPUT_DIR of a training.
        config_file: instead of `model`: a config whose MODEL.WEIGHTS is used.
        inputs: images, folders, globs or videos.
        output: folder for the results, another than those of the inputs.
        alpha: opacity of the segments in the pictures, in [0, 1].
        opts: KEY, VALUE, KEY, VALUE, ... that change the config.

    Returns:
        "annotations" and "categories" as in panoptic.json, and "unreadable": a message for each file that could not be
        read.

    Raises:
        UserError, FileNotFoundError: nothing was segmented; the message names what is wrong.
    """
    check_model(model, config_file)
    if not 0 <= alpha <= 1:
        raise UserError(f"--alpha is {alpha}: use a number from 0 to 1")

    from tqdm import tqdm

    from panoptic_fusion.data.frames import count_frames, find_files, frames_of
    from panoptic_fusion.engine.preflight import check_writable
    from panoptic_fusion.files import unused_name, write_json
    from panoptic_fusion.networks.trained import build_predictor, config_of

    output = os.fspath(output)
    files = find_files(inputs)
    for file in files:
        if os.path.realpath(file.parent) == os.path.realpath(output):
            raise UserError(f"--output {output} holds the input {file.name}: choose another folder")
    check_writable(output, "--output")
    cfg = config_of(model, config_file, [*opts, "MODEL.PANOPTIC_FUSION.OUTPUTS", "['panoptic_seg']"])
    predictor = build_predictor(cfg)

    os.makedirs(output, exist_ok=True)
    annotations: list[dict] = []
    unreadable: list[str] = []
    used: set[str] = set()
    frames = frames_of(files, unreadable)
    content = {"annotations": annotations, "categories": list(cfg.MODEL.CATEGORIES)}
    try:
        for file, name, image in tqdm(
            frames, total=sum(map(count_frames, files)), unit="image", mininterval=1, disable=None
        ):
            name = unused_name(name, used)
            annotations.append({"image": str(file), **segment(predictor, image, name, output, alpha)})
    finally:  # also what was done before an interruption
        write_json(os.path.join(output, "panoptic.json"), content)
    return {**content, "unreadable": unreadable}


def segment(predictor: DefaultPredictor, image: np.ndarray, name: str, output: str, alpha: float) -> dict:
    """Segments one BGR image, writes its picture and its PNG, and returns its entry of panoptic.json."""
    import cv2

    from panoptic_fusion.evaluation import write_panoptic_png
    from panoptic_fusion.visualization import draw_panoptic

    panoptic_seg, segments_info = predictor(image)["panoptic_seg"]
    ids = panoptic_seg.cpu().numpy()
    picture = draw_panoptic(image[:, :, ::-1], ids, segments_info, predictor.metadata, alpha)
    cv2.imwrite(os.path.join(output, f"{name}.jpg"), picture[:, :, ::-1])
    write_panoptic_png(os.path.join(output, f"{name}.png"), ids)
    return {"file_name": f"{name}.png", "segments_info": [named(s, predictor.metadata) for s in segments_info]}


def named(info: dict, metadata: Metadata) -> dict:
    """A segment with the name of its class, and the category id of MODEL.CATEGORIES in place of the contiguous one."""
    kind = "thing" if info["isthing"] else "stuff"
    category = info["category_id"]
    back = {v: k for k, v in metadata.get(f"{kind}_dataset_id_to_contiguous_id").items()}
    return {**info, "category_id": back[category], "category": metadata.get(f"{kind}_classes")[category]}

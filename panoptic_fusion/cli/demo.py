#!/usr/bin/env python
"""Segments images, folders of images, globs or videos with a trained model.

    python demo.py --model output/toy --input street.jpg photos/ "more/*.png" drive.mp4 --output segmented

For each image or video frame it writes a picture (NAME.jpg), the panoptic map as a PNG of segment ids
(NAME.png, id = R + 256 G + 65536 B, 0 = void), and for all of them panoptic.json with the segments.
"""

import argparse
import glob
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from panoptic_fusion.errors import UserError, run_cli  # first: it silences what detectron2's import makes torch say

# isort: split
from detectron2.config import CfgNode
from detectron2.data.catalog import Metadata
from detectron2.engine import DefaultPredictor
from tqdm import tqdm

from panoptic_fusion.engine.preflight import check_writable
from panoptic_fusion.evaluation import write_panoptic_png
from panoptic_fusion.files import unused_name, write_json
from panoptic_fusion.networks.trained import build_predictor, config_of
from panoptic_fusion.visualization import draw_panoptic

IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"}
VIDEOS = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v"}


def find_files(inputs: list[str]) -> list[Path]:
    """The image and video files that the arguments name.

    Raises:
        UserError: an argument names nothing; the message says which.
    """
    files = []
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            found = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGES | VIDEOS)
        else:
            found = [path] if path.is_file() else [Path(p) for p in sorted(glob.glob(text, recursive=True))]
            found = [p for p in found if p.is_file()]
        if not found:
            what = "holds no image or video" if path.is_dir() else "does not exist and matches no file"
            raise UserError(f"--input {text}: {what}")
        files += found
    return list(dict.fromkeys(files))


def count_frames(file: Path) -> int:
    """Number of frames of a video as its header says, 1 for an image."""
    if file.suffix.lower() not in VIDEOS:
        return 1
    video = cv2.VideoCapture(str(file))
    count = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    video.release()
    return max(count, 1)


def read_frames(file: Path) -> Iterator[tuple[str, np.ndarray]]:
    """(name, BGR uint8 image) of an image, or of each frame of a video.

    Raises:
        UserError: the file cannot be read.
    """
    if file.suffix.lower() not in VIDEOS:
        image = cv2.imread(str(file), cv2.IMREAD_COLOR)
        if image is None:
            raise UserError(f"{file} is not a readable image")
        yield file.stem, image
        return
    video = cv2.VideoCapture(str(file))
    number = 0
    while True:
        good, image = video.read()
        if not good:
            break
        yield f"{file.stem}_{number:06d}", image
        number += 1
    video.release()
    if number == 0:
        raise UserError(f"{file} is not a readable video")


def frames_of(files: list[Path], unreadable: list[str]) -> Iterator[tuple[Path, str, np.ndarray]]:
    """(file, name, BGR uint8 image) of all frames; messages on unreadable files are appended to `unreadable`."""
    for file in files:
        try:
            for name, image in read_frames(file):
                yield file, name, image
        except UserError as error:
            unreadable.append(str(error))


def configure(args: argparse.Namespace) -> CfgNode:
    """The config of --model, or of --config-file; with the classes of the model."""
    opts = [*args.opts, "MODEL.PANOPTIC_FUSION.OUTPUTS", "['panoptic_seg']"]
    return config_of(args.model, args.config_file, opts)


def main() -> int:
    """Runs the command line; 1 if some file could not be read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="OUTPUT_DIR of a training: its config.yaml and last checkpoint are used")
    parser.add_argument("--config-file", help="instead of --model: a config; the weights are its MODEL.WEIGHTS")
    parser.add_argument("--input", nargs="+", required=True, help="images, folders, globs or videos")
    parser.add_argument("--output", required=True, help="folder for the results")
    parser.add_argument("--alpha", type=float, default=0.6, help="opacity of the segments in the pictures, 0 to 1")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE pairs that change the config")
    args = parser.parse_args()
    if not 0 <= args.alpha <= 1:
        raise UserError(f"--alpha is {args.alpha}: use a number from 0 to 1")
    files = find_files(args.input)
    for file in files:
        if file.resolve().parent == Path(args.output).resolve():
            raise UserError(f"--output {args.output} holds the input {file.name}: choose another folder")
    check_writable(args.output, "--output")
    cfg = configure(args)
    predictor = build_predictor(cfg)

    annotations, unreadable, used = [], [], set()
    frames = frames_of(files, unreadable)
    try:
        for file, name, image in tqdm(
            frames, total=sum(map(count_frames, files)), unit="image", mininterval=1, disable=None
        ):
            name = unused_name(name, used)
            annotations.append({"image": str(file), **segment(predictor, image, name, args)})
    finally:  # also what was done before an interruption
        path = os.path.join(args.output, "panoptic.json")
        content = {"annotations": annotations, "categories": list(cfg.MODEL.CATEGORIES)}
        write_json(path, content)
    print(f"{len(annotations)} images: pictures, panoptic PNGs and panoptic.json in {args.output}")
    for message in unreadable:
        print(f"skipped: {message}", file=sys.stderr)
    return 1 if unreadable else 0


def segment(predictor: DefaultPredictor, image: np.ndarray, name: str, args: argparse.Namespace) -> dict:
    """Segments one BGR image, writes its picture and its PNG, and returns its entry of panoptic.json."""
    panoptic_seg, segments_info = predictor(image)["panoptic_seg"]
    ids = panoptic_seg.cpu().numpy()
    picture = draw_panoptic(image[:, :, ::-1], ids, segments_info, predictor.metadata, args.alpha)
    cv2.imwrite(os.path.join(args.output, f"{name}.jpg"), picture[:, :, ::-1])
    write_panoptic_png(os.path.join(args.output, f"{name}.png"), ids)
    return {"file_name": f"{name}.png", "segments_info": [named(s, predictor.metadata) for s in segments_info]}


def named(info: dict, metadata: Metadata) -> dict:
    """A segment with the name of its class, and the category id of MODEL.CATEGORIES in place of the contiguous one."""
    kind = "thing" if info["isthing"] else "stuff"
    category = info["category_id"]
    back = {v: k for k, v in metadata.get(f"{kind}_dataset_id_to_contiguous_id").items()}
    return {**info, "category_id": back[category], "category": metadata.get(f"{kind}_classes")[category]}


if __name__ == "__main__":
    run_cli(main)

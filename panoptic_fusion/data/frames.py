"""The images and video frames of a list of files, folders and globs."""

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np

from panoptic_fusion.errors import UserError

from .image_file import read_rgb

IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"}
VIDEOS = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v"}


def find_files(inputs: Iterable[str | os.PathLike]) -> list[Path]:
    """The image and video files that the arguments name.

    Raises:
        UserError: an argument names nothing; the message says which.
    """
    files = []
    for text in inputs:
        path, text = Path(text), str(text)
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
        yield file.stem, read_rgb(file)[:, :, ::-1]
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

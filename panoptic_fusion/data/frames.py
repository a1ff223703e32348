"""The images and video frames of a list of files, folders and globs."""

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np

from panoptic_fusion.errors import UserError

from .image_header import MAX_PIXELS, check_pixels, check_regular_file, open_image

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


def read_image(file: str | os.PathLike, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Returns an image of at most `max_pixels` pixels as BGR uint8 (H, W, 3).

    Raises:
        UserError: the file cannot be read, or the image is larger.
    """
    try:
        open_image(file, max_pixels).close()
    except UserError:
        raise
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error and more
        raise UserError(f"{file} is not a readable image ({error})") from error
    image = cv2.imread(os.fspath(file), cv2.IMREAD_COLOR)
    if image is None:
        raise UserError(f"{file} is not a readable image")
    return image


def read_frames(file: Path, max_pixels: int = MAX_PIXELS) -> Iterator[tuple[str, np.ndarray]]:
    """(name, BGR uint8 image) of an image, or of each frame of a video.

    Raises:
        UserError: the file cannot be read, or has more than `max_pixels` pixels.
    """
    if file.suffix.lower() not in VIDEOS:
        yield file.stem, read_image(file, max_pixels)
        return
    check_regular_file(file)
    video = cv2.VideoCapture(str(file))
    width, height = (int(video.get(key)) for key in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    check_pixels(width, height, file, max_pixels)
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


def frames_of(
    files: list[Path], unreadable: list[str], max_pixels: int = MAX_PIXELS
) -> Iterator[tuple[Path, str, np.ndarray]]:
    """(file, name, BGR uint8 image) of all frames; messages on unreadable files are appended to `unreadable`."""
    for file in files:
        try:
            for name, image in read_frames(file, max_pixels):
                yield file, name, image
        except UserError as error:
            unreadable.append(str(error))

"""Finds and reads the images and video frames of a list of files, folders, and globs."""

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np

from panoptic_fusion.errors import UserError, one_line

from .image_file import read_rgb
from .image_header import IMAGE_SUFFIXES, MAX_PIXELS, check_pixels, check_regular_file

VIDEOS = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v"}
DEFAULT_RATE = 25.0  # frames per second of a video whose header has no plausible rate


def find_files(inputs: Iterable[str | os.PathLike]) -> list[Path]:
    """Returns the image and video files that the arguments name.

    Raises:
        UserError: if an argument matches nothing. The message names it.
    """
    files = []
    for text in inputs:
        path, text = Path(text), str(text)
        if os.path.isdir(path):
            found = sorted(p for p in path.iterdir() if _is_named_like_image(p))
        elif os.path.lexists(path):  # includes pipes and links to themselves: read_frames reports the problem
            found = [path]
        else:
            found = [p for p in map(Path, sorted(glob.glob(text, recursive=True))) if _may_be_read(p)]
        if not found:
            what = "holds no image or video" if os.path.isdir(path) else "does not exist and matches no file"
            raise UserError(f"--input {text}: {what}")
        files += found
    return list(dict.fromkeys(files))


def _is_named_like_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES | VIDEOS


def _may_be_read(path: Path) -> bool:
    return _is_named_like_image(path) or os.path.isfile(path)


def is_video(file: Path) -> bool:
    """Returns whether a file is read as a video, which its suffix decides."""
    return file.suffix.lower() in VIDEOS


def count_frames(file: Path) -> int:
    """Returns the number of frames of a video according to its header, 1 for an image."""
    if not is_video(file) or not os.path.isfile(file):
        return 1
    return max(int(video_property(file, cv2.CAP_PROP_FRAME_COUNT)), 1)


def frame_rate(file: Path) -> float:
    """Returns the frames per second of a video according to its header, DEFAULT_RATE if that is not plausible."""
    rate = video_property(file, cv2.CAP_PROP_FPS)
    return rate if 0 < rate <= 1000 else DEFAULT_RATE


def video_property(file: Path, key: int) -> float:
    """Returns a property of a video, such as cv2.CAP_PROP_FPS; at most 0 if it is unknown."""
    video = cv2.VideoCapture(str(file))
    try:
        return video.get(key)
    finally:
        video.release()


def read_frames(file: Path, max_pixels: int = MAX_PIXELS) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (name, BGR uint8 image) of an image, or of each frame of a video.

    Raises:
        UserError: if the file cannot be read or has more than `max_pixels` pixels. It is also raised after the frames
            of a video that has at least two frames fewer than its header says.
        OSError, ...: whatever the decoders raise.
    """
    if not is_video(file):
        yield file.stem, read_rgb(file, max_pixels)[:, :, ::-1]
        return
    check_regular_file(file)
    video = cv2.VideoCapture(str(file))
    try:
        width, height, count = (
            int(video.get(key))
            for key in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_COUNT)
        )
        check_pixels(width, height, file, max_pixels)
        number = 0
        while (frame := video.read())[0]:
            yield f"{file.stem}_{number:06d}", frame[1]
            number += 1
    finally:
        video.release()
    if number == 0:
        raise UserError(f"{file} is not a readable video")
    if number + 1 < count:  # containers without an index only estimate the count
        raise UserError(f"{file}: only the first {number} of {count} frames can be read")


def frames_of(
    files: list[Path], unreadable: list[str], max_pixels: int = MAX_PIXELS
) -> Iterator[tuple[Path, str, np.ndarray]]:
    """Yields (file, name, BGR uint8 image) of all frames; appends messages on unreadable files to `unreadable`."""
    for file in files:
        try:
            for name, image in read_frames(file, max_pixels):
                yield file, name, image
        except UserError as error:
            unreadable.append(one_line(error))
        except Exception as error:  # one bad file must not end a long run, whatever the decoders raise
            unreadable.append(one_line(f"{file}: {getattr(error, 'strerror', None) or error}"))

"""Checks an image file before it is decoded: a pipe would block forever, and few bytes can hold a billion pixels."""

from __future__ import annotations

import os
import stat
import threading

from PIL import Image

from .dataset_errors import DatasetError

MAX_PIXELS = 2**28  # default of INPUT.MAX_PIXELS
# Names of files that are taken for images in folders; a file that is named itself may have any suffix.
IMAGE_SUFFIXES = frozenset(".jpg .jpeg .jpe .jfif .png .bmp .webp .tif .tiff .ppm .pgm .gif .avif .jp2".split())
_PILLOW_LIMIT = threading.Lock()


def open_image(path: str | os.PathLike, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Opens an image file and reads its header; the pixels are decoded on first access.

    Pillow's own limit, which is lower, does not apply.

    Args:
        path: path to the file.
        max_pixels: largest width x height to accept, see INPUT.MAX_PIXELS.

    Raises:
        FileNotFoundError: if the file does not exist.
        DatasetError: if the path is not a regular file, or the image is too large.
        OSError, ValueError, SyntaxError, ...: whatever Pillow raises for a file that is not an image.
    """
    check_regular_file(path)
    with _PILLOW_LIMIT:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = before
    try:
        check_pixels(*image.size, path, max_pixels)
    except DatasetError:
        image.close()
        raise
    return image


def check_regular_file(path: str | os.PathLike, kind: str = "missing image") -> None:
    """Checks that a path, links followed, is a regular file: opening a pipe or a device may never return.

    Args:
        path: path to the file.
        kind: kind of the error.

    Raises:
        FileNotFoundError: if the file does not exist.
        OSError: if the path cannot be followed, such as a link to itself.
        DatasetError: if the path is not a regular file.
    """
    mode = os.stat(path).st_mode
    if stat.S_ISREG(mode):
        return
    kinds = {
        stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
    }  # fmt: skip
    found = kinds.get(stat.S_IFMT(mode), "something else")
    raise DatasetError(f"it is {found}, not a file", os.fspath(path), kind)


def check_pixels(width: int, height: int, path: str | os.PathLike, max_pixels: int = MAX_PIXELS) -> None:
    """Checks the image size that a header declares.

    Raises:
        DatasetError: if the image has more than `max_pixels` pixels.
    """
    if width * height > max_pixels:
        raise DatasetError(
            f"{width}x{height} pixels are more than INPUT.MAX_PIXELS ({max_pixels}); make it smaller, or raise "
            "INPUT.MAX_PIXELS if there is enough memory",
            os.fspath(path),
            "too many pixels",
        )

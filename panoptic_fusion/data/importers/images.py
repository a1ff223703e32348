"""Reads the sizes and orientations of imported images, and links or copies the images to the result."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from ...files import write_atomically
from ..dataset_errors import DatasetError
from ..image_header import open_image

ORIENTATION = 0x0112  # Exif tag: 1 is upright, 5 to 8 swap width and height
_TIFF_SIZE = 256, 257  # tags of the stored width and height
_SUFFIX_OF_FORMAT = {"JPEG": ".jpg", "PNG": ".png", "BMP": ".bmp", "WEBP": ".webp", "TIFF": ".tif", "MPO": ".jpg"}


def image_header(image: str | bytes, file: str) -> tuple[tuple[int, int], int]:
    """Returns the stored size (height, width) and the Exif orientation of an image, given as a path or as bytes.

    Raises:
        DatasetError: the image cannot be read; the message names `file`.
    """
    try:
        with Image.open(io.BytesIO(image)) if isinstance(image, bytes) else open_image(image) as opened:
            width, height = opened.size
            orientation = opened.getexif().get(ORIENTATION, 1)
            if opened.format == "TIFF":  # Pillow's size is already the displayed one
                width, height = (int(opened.tag_v2[tag]) for tag in _TIFF_SIZE)
    except DatasetError:
        raise
    except FileNotFoundError:
        raise DatasetError("the image is missing", file, "missing image") from None
    except Exception as error:  # the decoders raise OSError, SyntaxError, ValueError, struct.error and more
        text = f"the image cannot be read ({type(error).__name__}: {error}). Replace it or remove its annotation."
        raise DatasetError(text, file, "corrupt image") from None
    return (height, width), orientation if orientation in range(1, 9) else 1


def upright_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Returns the displayed size (height, width) of an image."""
    return size if orientation < 5 else size[::-1]


def turn_upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Turns an array (H, W, ...) from the stored to the displayed orientation."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)


def embedded_suffix(data: bytes) -> str:
    """Returns the file suffix for an encoded image."""
    with Image.open(io.BytesIO(data)) as opened:
        return _SUFFIX_OF_FORMAT.get(opened.format or "", ".png")


def place_image(source: str | None, data: bytes | None, target: Path, copy: bool) -> None:
    """Writes an image to its target: bytes are written, files are linked (or copied if links do not work)."""
    if data is not None:
        if not (target.is_file() and not target.is_symlink() and target.read_bytes() == data):
            target.unlink(missing_ok=True)
            write_atomically(target, lambda file: file.write(data))
        return
    source = os.path.realpath(source)
    if target.is_symlink() or target.exists():
        if not copy and target.is_symlink() and os.readlink(target) == source:
            return
        target.unlink()
    if not copy:
        try:
            target.symlink_to(source)
            return
        except OSError:
            pass
    with open(source, "rb") as original:
        write_atomically(target, lambda file: shutil.copyfileobj(original, file))

"""Pictures of the report: reduced photos and maps, as files and as texts."""

import base64
from pathlib import Path

import cv2
import numpy as np

from ...data.dataset_errors import DatasetError
from ...data.image_file import decode_image
from ...files import write_image

MAX_SIDE = 1600  # pixels, of photos and maps
THUMB_SIDE = 240
PHOTO_QUALITY, THUMB_QUALITY = 85, 75  # of JPEG
_COMPRESSION = [cv2.IMWRITE_PNG_COMPRESSION, 6]  # two thirds of the size of OpenCV's default, in 4 instead of 2 ms


def reduced_map(ids: np.ndarray, limit: int = MAX_SIDE) -> np.ndarray:
    """Returns a map (H, W) with a long side of at most `limit`: the values at the centers of the new pixels."""
    height, width = _reduced_size(ids.shape, limit)
    rows, columns = (
        ((np.arange(new) + 0.5) * (old / new)).astype(int) for new, old in zip((height, width), ids.shape, strict=True)
    )
    return ids if (height, width) == ids.shape else ids[np.ix_(rows, columns)]


def labels_as_png(labels: np.ndarray) -> str:
    """Returns labels (H, W) in [0, 2^24) as the address of an RGB PNG, label = R + 256 G + 65536 B."""
    little_endian = np.ascontiguousarray(labels, "<u4").view(np.uint8).reshape(*labels.shape, 4)
    return _as_address(little_endian[..., 2::-1])


def codes_as_png(codes: np.ndarray) -> str:
    """Returns uint8 values (H, W) as the address of a gray PNG."""
    return _as_address(codes)


def write_pictures(
    photo: str, size: tuple[int, int] | None, photo_file: Path, thumb_file: Path, max_pixels: int
) -> str:
    """Writes a photo and its thumbnail as JPEG; returns what is wrong with the photo, "" if nothing is.

    Args:
        photo: path to the image file.
        size: (height, width) of its maps, which decides about its orientation; None if unknown.
        photo_file, thumb_file: paths to the files. If the photo cannot be read, neither is written.
        max_pixels: larger photos are not read.

    Raises:
        DiskError: the disk is full.
    """
    try:
        pixels = decode_image(photo, size, max_pixels).pixels
    except DatasetError as error:
        return str(error)
    problem = ""
    if size is not None and pixels.shape[:2] != size:
        problem = f"{photo}: the photo is {pixels.shape[1]}x{pixels.shape[0]}, but its map is {size[1]}x{size[0]}"
    pixels = reduced_photo(pixels, MAX_SIDE)
    write_image(photo_file, pixels, PHOTO_QUALITY)
    write_image(thumb_file, reduced_photo(pixels, THUMB_SIDE), THUMB_QUALITY)
    return problem


def reduced_photo(pixels: np.ndarray, limit: int) -> np.ndarray:
    """Returns an image (H, W, 3) uint8 with a long side of at most `limit`."""
    height, width = _reduced_size(pixels.shape[:2], limit)
    if (height, width) == pixels.shape[:2]:
        return pixels
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)


def _reduced_size(size: tuple[int, ...], limit: int) -> tuple[int, int]:
    factor = min(1, limit / max(*size, 1))
    height, width = (max(1, round(factor * side)) for side in size)
    return height, width


def _as_address(pixels: np.ndarray) -> str:
    data = cv2.imencode(".png", pixels, _COMPRESSION)[1]
    return f"data:image/png;base64,{base64.b64encode(data.tobytes()).decode('ascii')}"

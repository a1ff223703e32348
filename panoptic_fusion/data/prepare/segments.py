"""Converts a map of segment ids to COCO panoptic format: an RGB PNG and a list of segments.

H, W: image size. An id map is (H, W), integers >= 0; ids without a description are void (0 in the PNG).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from ...files import write_atomically
from ..annotation import label_extents
from ..image_header import open_image


def describe_segments(id_map: np.ndarray, categories: Mapping[int, tuple[int, int]]) -> tuple[np.ndarray, list[dict]]:
    """Encodes an id map.

    Args:
        id_map: (H, W) integer, 0 <= id < 2^24.
        categories: segment id -> (category id, iscrowd); ids without an entry, and 0, become void.

    Returns:
        The PNG's pixels (H, W, 3) uint8, id = R + 256 G + 65536 B, and the segments that have at least one pixel,
        ascending by id: id, category_id, iscrowd, area (pixels), bbox (x, y, width, height).
    """
    ids = np.flatnonzero(np.bincount(id_map.ravel()))
    label_of = np.zeros(ids[-1] + 1, np.int32)
    label_of[ids] = np.arange(1, len(ids) + 1)
    labels = label_of[id_map]
    boxes, areas = label_extents(labels, len(ids))
    boxes[:, 2:] -= boxes[:, :2]
    kept = np.array([0] + [i if i in categories else 0 for i in ids.tolist()])
    colors = np.stack([kept % 256, kept // 256 % 256, kept // 65536], axis=1).astype(np.uint8)
    segments = []
    for segment_id, area, box in zip(kept[1:].tolist(), areas.tolist(), boxes.tolist(), strict=True):
        if segment_id:
            category_id, iscrowd = categories[segment_id]
            segments.append(
                {"id": segment_id, "category_id": category_id, "iscrowd": iscrowd, "area": area, "bbox": box}
            )
    return colors[labels], segments


def write_png(pixels: np.ndarray, path: Path) -> None:
    """Writes (H, W, 3) uint8 to `path` with `write_atomically`."""
    write_atomically(path, lambda file: Image.fromarray(pixels).save(file, format="PNG"))


def read_id_map(path: str | Path) -> np.ndarray:
    """Reads a PNG of integers with one channel of 8 or 16 bits: (H, W) int32.

    Raises ValueError naming the file if it cannot be read or has more channels.
    """
    try:
        with open_image(path) as image:
            mode, pixels = image.mode, np.asarray(image)
    except (OSError, ValueError, SyntaxError) as error:
        raise ValueError(f"{path} is not a readable image ({error}); download it again") from error
    if pixels.ndim != 2 or mode == "P" or not np.issubdtype(pixels.dtype, np.integer):
        raise ValueError(f"{path} must be a PNG with one channel of 8 or 16 bits, not mode {mode}")
    return pixels.astype(np.int32)


def check_image(path: Path, size: tuple[int, int], annotation: str) -> None:
    """Checks that the image of an annotation exists with the size (H, W); reads only its header.

    Raises FileNotFoundError or ValueError naming both files.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing, the image of {annotation}")
    try:
        with open_image(path) as image:
            width, height = image.size
    except OSError as error:
        raise ValueError(f"{path} is not a readable image ({error}); download it again") from error
    if (height, width) != size:
        raise ValueError(f"{path} is {width}x{height}, its annotation {annotation} {size[1]}x{size[0]}")

"""Writes panoptic maps as PNGs; `annotation.read_id_map` reads them."""

import os

import cv2
import numpy as np

from ..files import write_atomically
from .coco_json import MAX_SEGMENT_ID


def write_panoptic_png(path: str | os.PathLike, panoptic_map: np.ndarray) -> None:
    """Writes a map (H, W) of ids in [0, 2^24) as colors, id = R + 256 G + 65536 B.

    The file is written atomically.

    Raises:
        ValueError: the map is not 2-D, or an id is out of range; the message names the file.
    """
    if panoptic_map.ndim != 2 or panoptic_map.min(initial=0) < 0 or panoptic_map.max(initial=0) > MAX_SEGMENT_ID:
        raise ValueError(f"{path}: a panoptic PNG needs a map (H, W) of ids in [0, 2^24)")
    little_endian = np.ascontiguousarray(panoptic_map, "<u4").view(np.uint8).reshape(*panoptic_map.shape, 4)
    _, encoded = cv2.imencode(".png", little_endian[..., 2::-1])  # OpenCV expects B, G, R
    write_atomically(path, lambda file: file.write(encoded))

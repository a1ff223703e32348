"""Writes pictures for people: JPEG files of limited size."""

import os

import numpy as np

from panoptic_fusion.files import write_image

MAX_BYTES = 3_000_000  # size of a file, which loads quickly and fits into a mail


def write_picture(path: str | os.PathLike, rgb: np.ndarray) -> None:
    """Writes a picture (H, W, 3) uint8 RGB as a JPEG of about MAX_BYTES or less.

    The quality is 95 for pictures up to 2048 pixels wide and high, 88 for larger ones, and lower if the file is too
    large. (4096 x 2731 pixels of a photo: 3.3 MB at 95, 2.2 MB at 88.)

    Raises:
        DiskError: the disk is full.
    """
    write_image(path, rgb, 95 if max(rgb.shape) <= 2048 else 88, MAX_BYTES)

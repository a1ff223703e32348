"""Decodes the masks of annotation tools: PNGs as text, run lengths of COCO, CVAT, Darwin and Label Studio."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as mask_api

from ..coco_json import rle_pixels
from .masks import Crop, tight_crop


def decode_base64(text: str) -> bytes:
    """Decodes base64, with or without line breaks and the head of a data URL (data:image/png;base64,...).

    Raises:
        ValueError: the text is not base64.
    """
    if text.startswith("data:"):
        text = text.partition(",")[2]
    return base64.b64decode("".join(text.split()), validate=True)


def decode_png_mask(data: bytes) -> np.ndarray:
    """Decodes a PNG to a mask (h, w) bool: the pixels that are not transparent or, without transparency, not black."""
    with Image.open(io.BytesIO(data)) as image:
        if image.mode == "P":
            image = image.convert("RGBA" if "transparency" in image.info else "L")
        pixels = np.asarray(image)
    return pixels > 0 if pixels.ndim == 2 else pixels[..., -1] > 0 if pixels.shape[2] in (2, 4) else pixels.any(-1)


def decode_coco_rle(rle: Any, height: int, width: int) -> Crop:
    """Decodes COCO's RLE (along the columns), with counts as a list or compressed.

    Raises:
        ValueError: the size is not (height, width), or the counts do not add up to it.
    """
    size, counts = rle["size"], rle["counts"]
    if list(size) != [height, width]:
        raise ValueError(f"its RLE is for an image of {size[1]}x{size[0]}, the image is {width}x{height}")
    if isinstance(counts, list):
        _check_counts(counts, height * width)
        rle = mask_api.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    elif not isinstance(counts, str) or rle_pixels(counts) != height * width:
        raise ValueError(f"the counts of its RLE do not add up to {height * width} pixels")
    return decode_valid_rle(rle)


def decode_valid_rle(rle: Any) -> Crop:
    """Decodes a compressed COCO RLE whose counts add up to its size; others can crash pycocotools."""
    x, y, w, h = (int(v) for v in mask_api.toBbox(rle))  # larger than the mask if a run is empty
    return tight_crop(mask_api.decode(rle)[y : y + h, x : x + w], y, x)


def decode_row_runs(counts: Sequence[int], height: int, width: int) -> np.ndarray:
    """Decodes runs along the rows, background first (CVAT), to a mask (height, width) bool.

    Raises:
        ValueError: the runs do not fit the size.
    """
    _check_counts(counts, height * width)
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(height, width)


def decode_value_runs(pairs: Sequence[int], height: int, width: int) -> np.ndarray:
    """Decodes value, count, value, count ... along the rows (Darwin) to (height, width) int64.

    Raises:
        ValueError: the runs do not fit the size.
    """
    if len(pairs) % 2:
        raise ValueError("its run-length encoding has a value without a count")
    _check_counts(pairs[1::2], height * width)
    return np.repeat(np.array(pairs[0::2], np.int64), pairs[1::2]).reshape(height, width)


def _check_counts(counts: Any, pixels: int) -> None:
    if not all(isinstance(c, int) and not isinstance(c, bool) and c >= 0 for c in counts) or sum(counts) != pixels:
        raise ValueError(f"the counts of its run-length encoding do not add up to {pixels} pixels")


def decode_brush(data: Any, height: int, width: int) -> np.ndarray:
    """Decodes Label Studio's brush RLE to a mask (height, width) bool.

    The bytes form a bit stream. Its header is the number of values (32 bits), the bit length of a value minus 1
    (5 bits), and four bit lengths of counts, each minus 1 (4 bits each). Runs follow: 1 bit that tells whether all
    values are the same, 2 bits that select the bit length of the count, the count minus 1, and one value or as many
    values as counted. The values are R, G, B, A of each pixel along the rows; A is the mask.

    Raises:
        ValueError: the stream does not contain four values per pixel.
    """
    array = np.asarray(data)
    if array.ndim != 1 or array.dtype.kind not in "iu" or array.size and not 0 <= array.min() <= array.max() <= 255:
        raise ValueError("its brush RLE is not a list of bytes")
    bits = np.unpackbits(array.astype(np.uint8))
    text = (bits + ord("0")).astype(np.uint8).tobytes().decode()
    position = 53

    def take(length: int) -> int:
        nonlocal position
        position += length
        if position > len(text):
            raise ValueError("its brush RLE is cut off")
        return int(text[position - length : position], 2)

    if len(text) < position or int(text[:32], 2) != 4 * height * width:
        raise ValueError(f"its brush RLE is not for an image of {width}x{height}")
    word = int(text[32:37], 2) + 1
    lengths = [int(text[37 + 4 * k : 41 + 4 * k], 2) + 1 for k in range(4)]
    values = np.zeros(4 * height * width, bool)
    start = 0
    while start < len(values):
        same = take(1)
        end = start + take(lengths[take(2)]) + 1
        if end > len(values):
            raise ValueError("its brush RLE has more pixels than the image")
        if same:
            values[start:end] = take(word) > 0
        else:
            stop = position + word * (end - start)
            if stop > len(bits):
                raise ValueError("its brush RLE is cut off")
            values[start:end] = bits[position:stop].reshape(-1, word).any(1)
            position = stop
        start = end
    return values.reshape(height, width, 4)[..., 3]

"""Sampling positions and weights of resized images: what the fusions in `modeling` and `runtime` share.

This module only needs numpy. All numbers are float32, with the rounding of torch's elementwise operations.
"""

from __future__ import annotations

import numpy as np


def shortest_edge_scale(size: tuple[int, int], min_size: int, max_size: int) -> float:
    """Returns the factor by which an image is resized to a short side of `min_size`, or else a long side of `max_size`.

    This is the factor of UPSNet's published code: the long side decides if it would exceed `max_size` after rounding,
    and the factor is stored as float32.

    Args:
        size: (height, width) of the image.
        min_size, max_size: target of the short side and limit of the long side, in pixels.
    """
    scale = min_size / min(size)
    if round(scale * max(size)) > max_size:
        scale = max_size / max(size)
    return float(np.float32(scale))


def source_positions(positions: np.ndarray, scale: float) -> np.ndarray:
    """Returns the source positions of bilinear resizing (align_corners=False), not clamped at the far end.

    Args:
        positions: float32 positions in the result.
        scale: source pixels per pixel of the result.
    """
    return np.maximum((positions + np.float32(0.5)) * np.float32(scale) - np.float32(0.5), 0)


def bilinear_sums(output: int, image: int, length: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the weights of upsampling by the stride, cropping, and resizing (both bilinear, align_corners=False).

    The two neighboring pixels of the input that a pixel of the output lies between depend on three logits at most:
    output i is the sum over k of weight[k, i] * input[min(first[i] + k, length - 1)].

    Args:
        output: number of pixels of the output.
        image: number of pixels of the input that are kept after upsampling.
        length: number of logits.
        stride: factor of the upsampling, in pixels.

    Returns:
        first (output,) int64 and weight (3, output) float32.
    """
    pixels = np.arange(output, dtype=np.float32)
    parts = [(pixels, np.ones_like(pixels))]
    if image != output:
        source = source_positions(pixels, image / output)
        upper = np.floor(source)
        second = source - upper
        parts = [(upper, 1 - second), (np.minimum(upper + 1, image - 1), second)]
    weight = np.zeros((3, output), np.float32)
    first = source_positions(parts[0][0], 1 / stride).astype(np.int64)
    for pixel, share in parts:
        source = source_positions(pixel, 1 / stride)
        second = source - np.floor(source)
        for step, value in (0, share * (1 - second)), (1, share * second):
            tap = np.minimum(source.astype(np.int64) + step, length - 1) - first
            weight[tap, np.arange(output)] += value
    return first, weight

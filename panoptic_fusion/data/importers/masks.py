"""Converts the polygons, ellipses and boxes of annotation tools to masks.

A mask is a `Crop`, the part of the image that contains its pixels, so that many small objects in a large image need
little memory. Coordinates are in pixels, x to the right and y down. Pixel (row, column) covers
[column, column + 1) x [row, row + 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw

from ..coco_json import MAX_COORDINATE

ELLIPSE_POINTS = 256
MAX_PIXELS = 2**29  # largest image; a larger size in a file is treated as an error


class Crop(NamedTuple):
    """Part of an image: `mask` (h, w) bool with its first pixel at row `top` and column `left` of the image."""

    mask: np.ndarray
    top: int
    left: int


def empty_crop() -> Crop:
    """Returns a crop without pixels."""
    return Crop(np.zeros((0, 0), bool), 0, 0)


def fill_polygon(rings: Sequence[np.ndarray], height: int, width: int) -> Crop:
    """Fills a polygon by the even-odd rule; a pixel belongs to the polygon if its center is inside.

    A center on a left or top edge is inside, a center on a right or bottom edge is outside. Polygons that share an edge
    therefore share no pixels.

    Args:
        rings: arrays (N, 2) of x, y, closed implicitly. Rings within rings are holes.
        height, width: size of the image, to which the polygon is clipped.
    """
    starts = np.concatenate(rings)
    ends = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])
    centers = np.ceil(np.stack([starts.min(0), starts.max(0)]) - 0.5)
    left, top = np.clip(centers[0], 0, (width, height)).astype(int).tolist()
    right, bottom = np.clip(centers[1], 0, (width, height)).astype(int).tolist()
    if right <= left or bottom <= top:
        return empty_crop()
    down = starts[:, 1] <= ends[:, 1]
    upper, lower = np.where(down[:, None], starts, ends), np.where(down[:, None], ends, starts)
    first = np.clip(np.ceil(upper[:, 1] - 0.5), top, bottom).astype(int)
    count = np.clip(np.ceil(lower[:, 1] - 0.5), top, bottom).astype(int) - first
    edge = np.repeat(np.arange(len(count)), count)  # one entry per edge and row that it crosses
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    slope = (lower[:, 0] - upper[:, 0])[edge] / (lower[:, 1] - upper[:, 1])[edge]
    x = upper[edge, 0] + (row + 0.5 - upper[edge, 1]) * slope
    column = np.clip(np.ceil(x - 0.5), left, right).astype(int)
    crossings = np.zeros((bottom - top, right - left + 1), np.int32)
    np.add.at(crossings, (row - top, column - left), 1)
    return Crop((np.cumsum(crossings, axis=1) & 1).astype(bool)[:, :-1], top, left)


def draw_polygon(rings: Sequence[np.ndarray], height: int, width: int) -> Crop:
    """Draws a polygon with its outline like Pillow: coordinates are pixels, and the pixels of the vertices are inside.

    Rings after the first are holes; their outline is not cut out. See `fill_polygon` for the arguments.
    """
    left, top, right, bottom = _pixel_bounds(rings, height, width)
    if right <= left or bottom <= top:
        return empty_crop()
    canvas = Image.new("L", (right - left, bottom - top))
    draw = ImageDraw.Draw(canvas)
    for index, ring in enumerate(rings):
        if len(ring) > 1:
            draw.polygon([tuple(point) for point in (ring - (left, top)).tolist()], outline=1, fill=int(index == 0))
    return Crop(np.asarray(canvas) > 0, top, left)


def draw_rounded_polygon(rings: Sequence[np.ndarray], height: int, width: int) -> Crop:
    """Draws a polygon with its outline like OpenCV, after rounding its coordinates to whole pixels.

    Rings within rings are holes; their outline is not cut out. See `fill_polygon` for the arguments.
    """
    left, top, right, bottom = _pixel_bounds(rings, height, width)
    if right <= left or bottom <= top:
        return empty_crop()
    canvas = np.zeros((bottom - top, right - left), np.uint8)
    cv2.fillPoly(canvas, [np.round(ring - (left, top)).astype(np.int32) for ring in rings], 1)
    return Crop(canvas > 0, top, left)


def _pixel_bounds(rings: Sequence[np.ndarray], height: int, width: int) -> tuple[int, int, int, int]:
    points = np.concatenate(rings)
    low, high = np.floor(points.min(0)).astype(int), np.ceil(points.max(0)).astype(int) + 1
    return (*np.clip(low, 0, (width, height)).tolist(), *np.clip(high, 0, (width, height)).tolist())


# How tools convert polygons to pixels. Labelme and ISAT draw with Pillow, Darwin and Supervisely with OpenCV; all other
# tools describe areas.
FILL = {"area": fill_polygon, "pillow": draw_polygon, "opencv": draw_rounded_polygon}


def ellipse_ring(x: float, y: float, rx: float, ry: float, degrees: float = 0.0) -> np.ndarray:
    """Returns an ellipse around (x, y) as a polygon (ELLIPSE_POINTS, 2), rotated clockwise by `degrees`."""
    angles = np.linspace(0, 2 * np.pi, ELLIPSE_POINTS, endpoint=False)
    return _turned(np.stack([rx * np.cos(angles), ry * np.sin(angles)], axis=1), degrees) + (x, y)


def box_ring(
    x0: float, y0: float, x1: float, y1: float, degrees: float = 0.0, pivot: tuple[float, float] | None = None
) -> np.ndarray:
    """Returns a box as a polygon (4, 2), rotated clockwise by `degrees` around `pivot`, by default its center."""
    ring = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], dtype=float)
    pivot = ((x0 + x1) / 2, (y0 + y1) / 2) if pivot is None else pivot
    return _turned(ring - pivot, degrees) + pivot if degrees else ring


def _turned(points: np.ndarray, degrees: float) -> np.ndarray:
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return points @ np.array([[cos, sin], [-sin, cos]])


def tight_crop(mask: np.ndarray, top: int = 0, left: int = 0) -> Crop:
    """Crops a mask (h, w) to its nonzero pixels; `top` and `left` are its position in the image."""
    mask = np.asarray(mask, dtype=bool)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return empty_crop()
    return Crop(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], top + int(rows[0]), left + int(columns[0]))


def clip_crop(crop: Crop, height: int, width: int) -> Crop:
    """Clips a crop to the image."""
    top, left = max(-crop.top, 0), max(-crop.left, 0)
    mask = crop.mask[top : max(height - crop.top, 0), left : max(width - crop.left, 0)]
    return Crop(mask, crop.top + top, crop.left + left) if mask.size else empty_crop()


def merge_crops(crops: Sequence[Crop]) -> Crop:
    """Returns the union of crops."""
    crops = [crop for crop in crops if crop.mask.size]
    if len(crops) < 2:
        return crops[0] if crops else empty_crop()
    top, left = min(c.top for c in crops), min(c.left for c in crops)
    bottom = max(c.top + c.mask.shape[0] for c in crops)
    right = max(c.left + c.mask.shape[1] for c in crops)
    mask = np.zeros((bottom - top, right - left), bool)
    for crop in crops:
        y, x = crop.top - top, crop.left - left
        mask[y : y + crop.mask.shape[0], x : x + crop.mask.shape[1]] |= crop.mask
    return Crop(mask, top, left)


def check_size(height: Any, width: Any) -> tuple[int, int]:
    """Returns an image size as two integers (height, width); raises ValueError if the size is invalid."""
    try:
        size = int(float(height)), int(float(width))
    except (TypeError, ValueError, OverflowError):
        size = 0, 0
    if not all(0 < v <= MAX_COORDINATE for v in size) or size[0] * size[1] > MAX_PIXELS:
        raise ValueError(f"{width!r}x{height!r} is not the size of an image")
    return size


def check_points(values: Any, least: int = 1) -> np.ndarray:
    """Returns coordinates as an array (N, 2) float; raises ValueError unless they are at least `least` finite pairs."""
    try:
        points = np.array(values, dtype=float)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("its coordinates are not numbers") from None
    if points.size == 0:
        points = points.reshape(0, 2)
    elif points.ndim == 1 and points.size % 2 == 0:
        points = points.reshape(-1, 2)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError("its coordinates are not pairs of x and y")
    if not (np.abs(points) <= MAX_COORDINATE).all():  # also rejects NaN
        raise ValueError("a coordinate is not finite or far outside of the image")
    if len(points) < least:
        raise ValueError(f"it has {len(points)} point{'s' if len(points) != 1 else ''}, {least} are needed")
    return points

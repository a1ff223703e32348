"""Masks of R instances as box crops; numpy twin of `modeling/fusion/mask_crops.py`, for masks from a mask head.

A window is the box of an instance in whole pixels, enlarged by one pixel and clipped to the image.
"""

from __future__ import annotations

import numpy as np

from .instances import Instances
from .interpolation import lerp
from .sem_seg_logits import Size

Window = tuple[slice, slice]  # rows and columns of an image


class PastedCrops:
    """Container of R masks to read one at a time: `crops[i]` is the (h, w) bool mask in `crops.windows[i]`.

    A pixel belongs to the mask if the probability at its center, interpolated bilinearly with zeros around the map, is
    at least 0.5.

    Attributes:
        size: (height, width) of the image.
        windows: R windows; `image[crops.windows[i]]` matches `crops[i]`. A window may be empty.
    """

    def __init__(self, instances: Instances):
        """Prepares the crops of R instances at the size that their boxes refer to."""
        self.size = instances.size
        self.windows = box_windows(instances.boxes, instances.size)
        self._boxes = instances.boxes
        self._maps = np.pad(probabilities(instances.mask_logits), ((0, 0), (1, 1), (1, 1)))

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> np.ndarray:
        rows, columns = self.windows[index]
        return self._sample(index, np.arange(rows.start, rows.stop), np.arange(columns.start, columns.stop))

    def sample(self, index: int, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Returns a mask at the given rows (h,) and columns (w,) of the image only, (h, w) bool."""
        window = self.windows[index]
        inside = [(window[0].start <= rows) & (rows < window[0].stop)]
        inside.append((window[1].start <= columns) & (columns < window[1].stop))
        return self._sample(index, rows, columns) & inside[0][:, None] & inside[1]

    def _sample(self, index: int, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        mask = self._maps[index]
        first, second, weight = self._taps(index, 0, columns)
        mask = lerp(mask[:, first], mask[:, second], weight)
        first, second, weight = self._taps(index, 1, rows)
        return lerp(mask[first], mask[second], weight[:, None]) >= 0.5

    def _taps(self, index: int, axis: int, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the two elements of the padded map that each pixel reads on an axis, and the weight of the second."""
        side = self._maps.shape[-1] - 2
        start, end = self._boxes[index, axis, None], self._boxes[index, axis + 2, None]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # a box without a width has NaN
            position = (pixels.astype(np.float32) + np.float32(0.5) - start) / (end - start) * np.float32(side)
        position = np.clip(np.nan_to_num(position - np.float32(0.5), nan=-1.0), -1, side) + np.float32(1)
        first = np.floor(position)
        index = first.astype(np.int64)
        return index, np.minimum(index + 1, side + 1), position - first


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Returns the sigmoid of float32 logits, computed in float64 and rounded to float32."""
    with np.errstate(over="ignore"):
        return (1 / (1 + np.exp(-logits.astype(np.float64)))).astype(np.float32)


def box_windows(boxes: np.ndarray, size: Size) -> list[Window]:
    """Returns the windows of boxes (R, 4) float32 XYXY in an image of `size`."""
    start, end = np.floor(boxes[:, :2]) - 1, np.ceil(boxes[:, 2:]) + 1
    return to_windows(np.concatenate([start, np.maximum(start, end)], axis=1), size)


def to_windows(corners: np.ndarray, size: Size) -> list[Window]:
    """Converts (R, 4) XYXY with exclusive ends to windows, clipped to an image of `size`."""
    corners = np.clip(corners, 0, np.array([size[1], size[0]] * 2)).astype(np.int64)
    return [(slice(y0, y1), slice(x0, x1)) for x0, y0, x1, y1 in corners.tolist()]

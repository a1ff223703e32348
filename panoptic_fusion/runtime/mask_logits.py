"""Mask logits of R instances as crops (UPSNet, section 3.1), in numpy.

Twin of `modeling/fusion/upsnet/mask_logit_crops.py`. `boxes.py` next to it describes the whole pixels of an instance's
two maps, X_mask and Y_mask.
"""

from __future__ import annotations

import numpy as np

from .instances import Instances
from .interpolation import lerp
from .mask_crops import to_windows

Taps = tuple[np.ndarray, np.ndarray, np.ndarray]


class MaskLogitCrops:
    """Crops of mask logits: `rows` returns Y_mask, and `crops[i]` the (h, w) bool mask where it is positive.

    Attributes:
        size: (height, width) of the image.
        windows: R windows, the extents of X_mask clipped to the image.
    """

    def __init__(self, instances: Instances):
        """Prepares the crops of R instances at the size that their boxes refer to."""
        self.size = instances.size
        start, last = np.trunc(instances.boxes[:, :2]), instances.boxes[:, 2:] - np.float32(1)
        mask_end = np.maximum(np.trunc(last), start) + 1
        end = np.maximum(np.round(last) + 1, mask_end)
        self.windows = to_windows(np.concatenate([start, end], axis=1), self.size)
        self._start, self._length = start.astype(np.int64), (mask_end - start).astype(np.int64)
        self._padded = np.pad(instances.mask_logits, ((0, 0), (0, 1), (0, 1)))
        self._prepared: dict[int, tuple[np.ndarray, Taps]] = {}  # masks resized along the columns, and their rows

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> np.ndarray:
        rows, _ = self.windows[index]
        return self.rows(index, rows.start, rows.stop) > 0

    def rows(self, index: int, y0: int, y1: int) -> np.ndarray:
        """Returns Y_mask in image rows y0..y1, which lie in the window, and its columns, (y1 - y0, w) float32."""
        if index not in self._prepared:
            first, second, weight = self._taps(index, 0)
            mask = self._padded[index]
            self._prepared[index] = lerp(mask[:, first], mask[:, second], weight), self._taps(index, 1)
        mask, taps = self._prepared[index]
        top = self.windows[index][0].start
        first, second, weight = (tap[y0 - top : y1 - top] for tap in taps)
        return lerp(mask[first], mask[second], weight[:, None])

    def _taps(self, index: int, axis: int) -> Taps:
        """Returns the two mask elements that each pixel of a window reads along an axis, and the weight of the second.

        Element M is a zero at the end of the map, which pixels past the end of Y_mask read.

        Args:
            index: row of the instance.
            axis: 0 for the columns, 1 for the rows.
        """
        side, window = self._padded.shape[-1] - 1, self.windows[index][1 - axis]
        offset = np.arange(window.start, window.stop) - self._start[index, axis]
        length = self._length[index, axis, None].astype(np.float32)
        scale = np.float32(1) / length * np.float32(side)  # two roundings, as torch divides a number by a tensor
        position = (offset.astype(np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
        position = np.clip(position, 0, side - 1)
        floor = np.floor(position)
        first = floor.astype(np.int64)
        outside = offset >= self._length[index, axis]
        second = np.minimum(first + 1, side - 1)
        return np.where(outside, side, first), np.where(outside, side, second), position - floor

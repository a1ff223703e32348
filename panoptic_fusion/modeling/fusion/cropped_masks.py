"""Full-size masks of R instances that are stored as the pixels of their boxes, for decoded run-length encodings.

300 instances in an image of 8 megapixels take 2.4 GB as a tensor (R, H, W), and a few percent of that in their boxes.

Shapes: R instances, H x W pixels of the image, P pixels of all R boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from panoptic_fusion.data.importers.masks import Crop

Size = tuple[int, int]


class CroppedMasks:
    """Masks that can be read like a bool tensor (R, H, W), as a field of `Instances`.

    Attributes:
        pixels: (P,) bool, the pixels of the R boxes one after another, each row by row.
        boxes: (R, 4) int64, XYXY with exclusive ends, the tight boxes; zeros for an empty mask.
        starts: (R,) int64, the first of the `pixels` of each box.
        shape: (R, H, W).
    """

    def __init__(self, pixels: Tensor, boxes: Tensor, starts: Tensor, size: Size):
        self.pixels, self.boxes, self.starts = pixels, boxes, starts
        self.shape = (len(boxes), *size)

    @classmethod
    def of_crops(cls, crops: Sequence[Crop], size: Size) -> CroppedMasks:
        """Joins tight crops in an image of `size` (H, W), on the CPU."""
        pixels = [torch.from_numpy(np.ascontiguousarray(crop.mask).reshape(-1)) for crop in crops]
        return cls.of_pixels(
            torch.cat([*pixels, torch.zeros(0, dtype=torch.bool)]),
            torch.tensor([_box(crop) for crop in crops], dtype=torch.int64).reshape(-1, 4),
            size,
        )

    @classmethod
    def of_pixels(cls, pixels: Tensor, boxes: Tensor, size: Size) -> CroppedMasks:
        """Builds masks whose pixels have the order of the boxes; for the arguments see the attributes."""
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        return cls(pixels, boxes, areas.cumsum(0) - areas, size)

    @property
    def device(self) -> torch.device:
        """Device of all tensors."""
        return self.pixels.device

    def to(self, device: torch.device) -> CroppedMasks:
        """Returns the masks on a device."""
        return CroppedMasks(self.pixels.to(device), self.boxes.to(device), self.starts.to(device), self.shape[1:])

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Any) -> CroppedMasks | Tensor:
        """Returns what the same index of a tensor (R, H, W) returns.

        Args:
            index: rows, as a slice or a tensor: `CroppedMasks`, without a copy of the pixels;
                or (row, slice of image rows, slice of image columns) with Python ints: (h, w) bool;
                or three int64 tensors that broadcast, with pixels inside the image: bool of their common shape.
        """
        if not isinstance(index, tuple):
            return CroppedMasks(self.pixels, self.boxes[index], self.starts[index], self.shape[1:])
        return self._at(*index) if isinstance(index[0], Tensor) else self._window(*index)

    @cached_property
    def _table(self) -> list[list[int]]:
        """Returns x0, y0, x1, y1 and start of each mask, with one transfer to the CPU."""
        return torch.cat([self.boxes, self.starts[:, None]], dim=1).tolist()

    def _window(self, row: int, rows: slice, cols: slice) -> Tensor:
        x0, y0, x1, y1, start = self._table[row]
        crop = self.pixels[start : start + (y1 - y0) * (x1 - x0)].view(y1 - y0, x1 - x0)
        window = crop.new_zeros(rows.stop - rows.start, cols.stop - cols.start)
        top, bottom = max(y0, rows.start), min(y1, rows.stop)
        left, right = max(x0, cols.start), min(x1, cols.stop)
        if top < bottom and left < right:
            part = crop[top - y0 : bottom - y0, left - x0 : right - x0]
            window[top - rows.start : bottom - rows.start, left - cols.start : right - cols.start] = part
        return window

    def _at(self, index: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
        x0, y0, x1, y1 = self.boxes[index].unbind(-1)
        is_inside = (rows >= y0) & (rows < y1) & (cols >= x0) & (cols < x1)
        place = self.starts[index] + (rows - y0) * (x1 - x0) + cols - x0
        if not len(self.pixels):
            return is_inside
        return self.pixels[place.where(is_inside, 0)] & is_inside


def _box(crop: Crop) -> tuple[int, int, int, int]:
    height, width = crop.mask.shape
    return crop.left, crop.top, crop.left + width, crop.top + height

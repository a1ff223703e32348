"""Pixel extents of the two maps of an instance in UPSNet's panoptic head (section 3.1).

X_mask holds the semantic logits in the box of the instance, and Y_mask its mask logits resized to the box. Both are in
whole pixels.

The paper says "inside box". The whole pixels match the published code, whose boxes contain their first and last pixel.
A detectron2 box (x0, y0, x1, y1), whose end is exclusive, therefore becomes (x0, y0, x1 - 1, y1 - 1), divided by the
stride of the map, called (u0, v0, u1, v1) below. Along x (and likewise along y):

- Y_mask is resized to the pixels trunc(u0) .. trunc(u1), at least one.
- X_mask is taken from the pixels trunc(u0) .. round(u1), rounded half to even. This is up to one pixel more than
  Y_mask, in which Y_mask is 0. If this range is empty for a box narrower than a pixel, X_mask has the pixel of Y_mask.

Shapes: R is the number of instances, M the side of a mask head's output.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from panoptic_fusion.modeling.fusion.mask_crops import clip_corners


@dataclass(frozen=True)
class BoxExtents:
    """Pixels of X_mask and Y_mask for R instances, columns first, then rows. They may extend beyond the map.

    Attributes:
        start: (R, 2) int64, first column and row of both.
        mask_size: (R, 2) int64, number of columns and rows of Y_mask, at least 1.
        end: (R, 2) int64, exclusive end column and row of X_mask, never before the end of Y_mask.
    """

    start: Tensor
    mask_size: Tensor
    end: Tensor

    @classmethod
    def of_boxes(cls, boxes: Tensor, stride: int = 1) -> BoxExtents:
        """Computes the extents of boxes.

        Args:
            boxes: (R, 4) float, XYXY with exclusive ends, in pixels of an image.
            stride: stride of the map in pixels of the image.
        """
        start, last = (boxes[:, :2] / stride).trunc(), (boxes[:, 2:] - 1) / stride
        mask_end = torch.maximum(last.trunc(), start) + 1
        end = torch.maximum(last.round() + 1, mask_end)
        return cls(start.long(), (mask_end - start).long(), end.long())

    def clipped(self, size: tuple[int, int]) -> Tensor:
        """Returns the pixels of X_mask inside a map of `size` (H, W).

        The result is (R, 4) int64, XYXY with exclusive ends. A window may be empty.
        """
        return clip_corners(torch.cat([self.start, self.end], dim=1), size)


def mask_taps(offset: Tensor, length: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Returns where bilinear resizing (align_corners=False) of `side` elements to `length` pixels reads, on one axis.

    Args:
        offset: int64, pixel position relative to the first pixel.
        length: int64, of a shape that broadcasts with `offset`.
        side: M, the side of the mask. Pixels from `length` on read the elements M and M + 1, which are zeros.

    Returns:
        The first of the two neighboring mask elements to read (int64, in 0..M) and the weight of the second one
        (float32, in [0, 1)).
    """
    position = ((offset + 0.5) * (side / length) - 0.5).clamp(0, side - 1)
    return position.long().masked_fill(offset >= length, side), position.frac()

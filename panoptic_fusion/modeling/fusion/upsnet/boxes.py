"""Where the two maps of an instance lie in UPSNet's panoptic head (section 3.1): X_mask, the semantic logits in its
box, and Y_mask, its mask logits resized to its box. Both are in whole pixels.

The paper says "inside box"; the whole pixels are those of the authors' implementation, which works on boxes that name
their first and last pixel. A box (x0, y0, x1, y1) of detectron2, whose end is exclusive, therefore becomes (x0, y0,
x1 - 1, y1 - 1), divided by the stride of the map; call that (u0, v0, u1, v1). Then, along x (along y likewise),

- Y_mask is resized to the pixels trunc(u0) .. trunc(u1), at least one;
- X_mask is taken from the pixels trunc(u0) .. round(u1), rounded half to even: up to one pixel more than Y_mask, in
  which Y_mask is 0. (For boxes narrower than a pixel, where these may be none, X_mask has the pixel of Y_mask.)

Shape shorthand: R: instances, P: pixels of the windows of all R instances together, M: side of a mask head's output.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class BoxExtents:
    """The pixels of X_mask and Y_mask for R instances; columns first, then rows. They may reach over the map's border.

    Attributes:
        start: (R, 2) int64, the first column and row of both.
        mask_size: (R, 2) int64, columns and rows of Y_mask, at least 1.
        end: (R, 2) int64, the column and row behind X_mask; never before the end of Y_mask.
    """

    start: Tensor
    mask_size: Tensor
    end: Tensor

    @classmethod
    def of_boxes(cls, boxes: Tensor, stride: int = 1) -> BoxExtents:
        """
        Args:
            boxes: (R, 4) float, XYXY with exclusive ends, in pixels of an image.
            stride: pixels of the image per pixel of the map.
        """
        start, last = (boxes[:, :2] / stride).trunc(), (boxes[:, 2:] - 1) / stride
        mask_end = torch.maximum(last.trunc(), start) + 1
        end = torch.maximum(last.round() + 1, mask_end)
        return cls(start.long(), (mask_end - start).long(), end.long())

    def clipped(self, size: tuple[int, int]) -> Tensor:
        """The pixels of X_mask inside of a map of `size` (H, W): (R, 4) int64, XYXY with exclusive ends; a window may
        be empty."""
        limit = self.start.new_tensor([size[1], size[0]])
        start = torch.minimum(self.start.clamp(min=0), limit)
        return torch.cat([start, torch.maximum(torch.minimum(self.end, limit), start)], dim=1)


def mask_taps(offset: Tensor, length: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Where bilinear resizing (align_corners=False) of `side` texels to `length` pixels reads, along one axis.

    Args:
        offset: int64, pixels from the first one.
        length: int64, of a shape that broadcasts with it.
        side: M; texel M stands for a zero behind the map, which pixels from `length` on read.

    Returns:
        The two texels to read (int64, in 0..M) and the weight of the second one (float32, in [0, 1)).
    """
    position = ((offset + 0.5) * (side / length) - 0.5).clamp(0, side - 1)
    first = position.floor()
    outside = offset >= length
    weight = position - first
    first = first.long()
    second = (first + 1).clamp(max=side - 1)
    return first.masked_fill(outside, side), second.masked_fill(outside, side), weight


@dataclass(frozen=True)
class BoxPixels:
    """The pixels of R windows as one flat list, window by window, row by row.

    Attributes:
        instance, row, col: (P,) int64, the instance of each pixel and its place in the map.
        extents: of the R instances.
    """

    instance: Tensor
    row: Tensor
    col: Tensor
    extents: BoxExtents

    @classmethod
    def of_boxes(cls, boxes: Tensor, size: tuple[int, int], stride: int) -> BoxPixels:
        """The pixels of X_mask inside of a map of `size` (h, w); for the rest see `BoxExtents.of_boxes`."""
        extents = BoxExtents.of_boxes(boxes, stride)
        left, top, right, bottom = extents.clipped(size).unbind(1)
        width = right - left
        counts = width * (bottom - top)
        instance = torch.repeat_interleave(counts)
        place = torch.arange(len(instance), device=boxes.device) - (counts.cumsum(0) - counts)[instance]
        width = width[instance]
        row = torch.div(place, width, rounding_mode="floor")
        return cls(instance, top[instance] + row, left[instance] + place - row * width, extents)

    def resized(self, masks: Tensor) -> Tensor:
        """Masks resized bilinearly to Y_mask, at these pixels; differentiable.

        Args:
            masks: (R, M, M) float.

        Returns:
            (P,) float.
        """
        side = masks.shape[-1]
        place = torch.stack([self.col, self.row], dim=1) - self.extents.start[self.instance]
        first, second, weight = mask_taps(place, self.extents.mask_size[self.instance], side)
        weight = weight.to(masks.dtype)
        texels = F.pad(masks, (0, 1, 0, 1)).flatten()
        start = self.instance * (side + 1) ** 2

        def row(index: Tensor) -> Tensor:
            index = start + index * (side + 1)
            values = (texels.index_select(0, index + column[:, 0]) for column in (first, second))
            return torch.lerp(*values, weight[:, 0])

        return torch.lerp(row(first[:, 1]), row(second[:, 1]), weight[:, 1])

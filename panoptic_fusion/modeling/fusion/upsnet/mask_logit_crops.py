"""Y_mask of R instances (UPSNet, section 3.1), read in parts so that R x H x W logits are never allocated."""

from __future__ import annotations

from functools import cached_property

import torch
from detectron2.structures import Instances
from torch import Tensor
from torch.nn import functional as F

from panoptic_fusion.modeling.fusion.mask_crops import MaskCrops
from panoptic_fusion.modeling.fusion.upsnet.boxes import BoxExtents, mask_taps
from panoptic_fusion.modeling.fusion.window_pixels import WindowPixels

BIT_MASK_LOGIT = 10.0
"""Logit of a bit mask: + this value inside the mask, - this value in the rest of the box."""


class MaskLogitCrops(MaskCrops):
    """Crops of mask logits: `rows` returns Y_mask, and `crops[i]` the (h, w) bool mask where it is positive.

    The windows are the extents of X_mask (see `boxes.py`), clipped to the image.
    """

    def __init__(self, boxes: Tensor, size: tuple[int, int], stride: int = 1):
        """Prepares the crops of R boxes.

        Args:
            boxes: (R, 4) float, XYXY in pixels of an image.
            size: (height, width) of the map, which is the image at a stride.
            stride: stride of the map in pixels of the image.
        """
        self.size = (int(size[0]), int(size[1]))
        self.device = boxes.device
        self.extents = BoxExtents.of_boxes(boxes.float(), stride)
        self.corners = self.extents.clipped(self.size)

    def rows(self, index: int, y0: int, y1: int) -> Tensor:
        """Returns Y_mask in image rows y0..y1 and the columns of the window, (y1 - y0, w) float32.

        The rows must lie in the window.
        """
        raise NotImplementedError

    def logits_at(self, pixels: WindowPixels) -> Tensor:
        """Returns Y_mask at a flat list of pixels, (P,) float32, the same values as `rows`; see `MaskCrops.at`."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> Tensor:
        rows, _ = self.windows[index]
        return self.rows(index, rows.start, rows.stop) > 0

    def at(self, pixels: WindowPixels) -> Tensor:
        """Returns where the mask logits are positive; see `MaskCrops.at`."""
        return self.logits_at(pixels) > 0

    @staticmethod
    def from_instances(instances: Instances, index: Tensor) -> MaskLogitCrops:
        """Returns the crops of selected instances, from pred_mask_logits or pred_masks.

        The crops are at output size (`instances.image_size`).

        Args:
            instances: see `PanopticFusion.forward`.
            index: (R,) int64, the selected rows of `instances`.

        Raises:
            ValueError: if the instances have neither.
        """
        boxes = instances.pred_boxes.tensor[index]
        if instances.has("pred_mask_logits"):
            return ResizedLogitCrops(instances.pred_mask_logits[index].float(), boxes, instances.image_size)
        if instances.has("pred_masks"):
            return BitMaskLogitCrops(instances.pred_masks, index, boxes)
        raise ValueError("Panoptic fusion needs masks: instances with pred_mask_logits or pred_masks (MODEL.MASK_ON).")


class ResizedLogitCrops(MaskLogitCrops):
    """Y_mask from the output of a mask head: (R, M, M) float raw logits, resized bilinearly to the boxes.

    Columns are resized once, for all M rows. Rows are resized on demand. `logits_at` is differentiable.
    """

    def __init__(self, mask_logits: Tensor, boxes: Tensor, size: tuple[int, int], stride: int = 1):
        super().__init__(boxes, size, stride)
        self.maps = F.pad(mask_logits, (0, 2, 0, 2))
        self._widened: dict[int, Tensor] = {}

    def rows(self, index: int, y0: int, y1: int) -> Tensor:
        """Returns Y_mask in the given rows; see `MaskLogitCrops.rows`."""
        rows, cols = self.windows[index]
        all_rows, all_cols = self._window_taps
        if index not in self._widened:
            first, weight = (tap[index, : cols.stop - cols.start] for tap in all_cols)
            mask = self.maps[index]
            self._widened[index] = torch.lerp(mask.index_select(1, first), mask[:, 1:].index_select(1, first), weight)
        mask = self._widened[index]
        first, weight = (tap[index, y0 - rows.start : y1 - rows.start] for tap in all_rows)
        return torch.lerp(mask.index_select(0, first), mask[1:].index_select(0, first), weight[:, None])

    def logits_at(self, pixels: WindowPixels) -> Tensor:
        """Returns Y_mask at a flat list of pixels, (P,) of the dtype of the logits; see `MaskLogitCrops.logits_at`."""
        start, length = pixels.of_sides(self._spans)
        first, weight = mask_taps(pixels.position - start, length, self.maps.shape[-1] - 2)
        return pixels.resize(self._map_rows, first, weight.to(self.maps.dtype))

    @cached_property
    def _spans(self) -> Tensor:
        """Start and length of Y_mask along x and y, (R, 2, 2) int64."""
        return torch.stack([self.extents.start, self.extents.mask_size], dim=2)

    @cached_property
    def _map_rows(self) -> Tensor:
        """The maps as `WindowPixels.resize` reads them."""
        return self.maps.transpose(0, 1).contiguous()

    @cached_property
    def _window_taps(self) -> list[tuple[Tensor, Tensor]]:
        """`mask_taps` of the pixels of all windows, along rows and along columns: two (R, length) tensors each."""
        longest = (
            max((part.stop - part.start for part in parts), default=0) for parts in zip(*self.windows, strict=True)
        )
        result = []
        for axis, length in zip((1, 0), longest, strict=True):
            skipped = self.corners[:, axis] - self.extents.start[:, axis]
            offset = skipped[:, None] + torch.arange(length, device=self.device)
            result.append(mask_taps(offset, self.extents.mask_size[:, axis, None], self.maps.shape[-1] - 2))
        return result


class BitMaskLogitCrops(MaskLogitCrops):
    """Y_mask from full masks, for instances without a mask head: +-BIT_MASK_LOGIT in the whole window of X_mask.

    Args:
        masks: (K, H, W) bool. Pixels outside the window of the box are ignored.
        index: (R,) int64, the selected masks.
        boxes: (R, 4) float, XYXY in pixels.
    """

    def __init__(self, masks: Tensor, index: Tensor, boxes: Tensor):
        super().__init__(boxes, tuple(masks.shape[1:]))
        self.masks, self.index = masks, index

    @cached_property
    def _selected(self) -> list[int]:
        return self.index.tolist()

    def rows(self, index: int, y0: int, y1: int) -> Tensor:
        """Returns Y_mask in the given rows; see `MaskLogitCrops.rows`."""
        return _bit_logits(self.masks[self._selected[index], y0:y1, self.windows[index][1]])

    def logits_at(self, pixels: WindowPixels) -> Tensor:
        """Returns Y_mask at a flat list of pixels; see `MaskLogitCrops.logits_at`."""
        return _bit_logits(pixels.read(self.masks, self.index))


def _bit_logits(mask: Tensor) -> Tensor:
    return mask.float().sub_(0.5).mul_(2 * BIT_MASK_LOGIT)

"""Y_mask of R instances (UPSNet, section 3.1), read in parts so that R x H x W logits are never allocated."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.structures import Instances
from torch import Tensor
from torch.nn import functional as F

from panoptic_fusion.modeling.fusion.mask_crops import MaskCrops, to_windows
from panoptic_fusion.modeling.fusion.upsnet.boxes import BoxExtents, mask_taps

BIT_MASK_LOGIT = 10.0
"""Logit of a bit mask: + this value inside the mask, - this value in the rest of the box."""


class MaskLogitCrops(MaskCrops):
    """Crops of mask logits: `rows` returns Y_mask, and `crops[i]` the (h, w) bool mask where it is positive.

    The windows are the extents of X_mask (see `boxes.py`), clipped to the image.
    """

    def __init__(self, boxes: Tensor, size: tuple[int, int]):
        """Prepares the crops of R boxes.

        Args:
            boxes: (R, 4) float, XYXY in pixels of the image.
            size: (height, width) of the image.
        """
        self.size = (int(size[0]), int(size[1]))
        self.device = boxes.device
        self.extents = BoxExtents.of_boxes(boxes.float())
        self.corners = self.extents.clipped(self.size)
        self.windows = to_windows(self.corners)

    def rows(self, index: int, y0: int, y1: int) -> Tensor:
        """Returns Y_mask in image rows y0..y1 and the columns of the window, (y1 - y0, w) float32.

        The rows must lie in the window.
        """
        raise NotImplementedError

    def __getitem__(self, index: int) -> Tensor:
        rows, _ = self.windows[index]
        return self.rows(index, rows.start, rows.stop) > 0

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
            return BitMaskLogitCrops(instances.pred_masks, index.tolist(), boxes)
        raise ValueError("Panoptic fusion needs masks: instances with pred_mask_logits or pred_masks (MODEL.MASK_ON).")


class ResizedLogitCrops(MaskLogitCrops):
    """Y_mask from the output of a mask head: (R, M, M) float32 raw logits, resized bilinearly to the boxes.

    Columns are resized once, for all M rows. Rows are resized on demand.
    """

    def __init__(self, mask_logits: Tensor, boxes: Tensor, size: tuple[int, int]):
        super().__init__(boxes, size)
        side = mask_logits.shape[-1]
        height = max((rows.stop - rows.start for rows, _ in self.windows), default=0)
        width = max((cols.stop - cols.start for _, cols in self.windows), default=0)
        padded = F.pad(mask_logits, (0, 1, 0, 1))
        cols_taps, self.taps = self._taps(0, width, side), self._taps(1, height, side)
        self.widened = []
        for index, (_, cols) in enumerate(self.windows):
            first, second, weight = (tap[index, : cols.stop - cols.start] for tap in cols_taps)
            mask = padded[index]
            self.widened.append(torch.lerp(mask.index_select(1, first), mask.index_select(1, second), weight))

    def _taps(self, axis: int, length: int, side: int) -> tuple[Tensor, Tensor, Tensor]:
        """Returns `mask_taps` of each window's pixels along columns (axis 0) or rows (1), three (R, length) tensors."""
        skipped = self.corners[:, axis] - self.extents.start[:, axis]
        offset = skipped[:, None] + torch.arange(length, device=self.device)
        return mask_taps(offset, self.extents.mask_size[:, axis, None], side)

    def rows(self, index: int, y0: int, y1: int) -> Tensor:
        """Returns Y_mask in the given rows; see `MaskLogitCrops.rows`."""
        top, mask = self.windows[index][0].start, self.widened[index]
        first, second, weight = (tap[index, y0 - top : y1 - top] for tap in self.taps)
        return torch.lerp(mask.index_select(0, first), mask.index_select(0, second), weight[:, None])


class BitMaskLogitCrops(MaskLogitCrops):
    """Y_mask from full masks, for instances without a mask head: +-BIT_MASK_LOGIT in the whole window of X_mask.

    Args:
        masks: (K, H, W) bool. Pixels outside the window of the box are ignored.
        index: indices of the R selected masks.
        boxes: (R, 4) float, XYXY in pixels.
    """

    def __init__(self, masks: Tensor, index: Sequence[int], boxes: Tensor):
        super().__init__(boxes, tuple(masks.shape[1:]))
        self.masks, self.index = masks, index

    def rows(self, index: int, y0: int, y1: int) -> Tensor:
        """Returns Y_mask in the given rows; see `MaskLogitCrops.rows`."""
        mask = self.masks[self.index[index], y0:y1, self.windows[index][1]]
        return mask.float().sub_(0.5).mul_(2 * BIT_MASK_LOGIT)

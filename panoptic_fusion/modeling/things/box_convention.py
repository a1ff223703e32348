"""Inclusive boxes, which end at their last pixel, for weights trained with them (UPSNet, after Detectron).

All boxes are stored in detectron2's format: x0, y0, x1, y1 with exclusive ends. The corresponding inclusive box,
(x0, y0, x1 - 1, y1 - 1), has the same width in its convention, x1 - x0. Decoding, NMS and the pyramid level are
therefore the same. This file contains the two differences: where the poolers sample, and how boxes are clipped.
"""

import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Instances
from torch import Tensor, nn

BOX_CONVENTIONS = ("exclusive", "inclusive")


def clip_to_pixels(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Clips boxes so that their first and last pixels lie in the image.

    A box outside of the image keeps the closest pixels at the border, so no box is empty. detectron2 clips such a box
    to an area of 0. Non-finite values are kept for later checks.

    Args:
        boxes: (..., 4) float, XYXY with exclusive ends, in pixels.
        size: (height, width) of the image.
    """
    height, width = size
    ranges = ((0, width - 1), (0, height - 1), (1, width), (1, height))
    columns = [x.clamp(low, high) for x, (low, high) in zip(boxes.unbind(-1), ranges, strict=True)]
    return torch.stack(columns, dim=-1).where(boxes.isfinite(), boxes)


class _ToLastPixel(nn.Module):
    """Wrapper of the pooler of one level that pools (x0, y0, x1 - 1, y1 - 1) instead of (x0, y0, x1, y1)."""

    def __init__(self, pooler: nn.Module):
        super().__init__()
        self.pooler = pooler

    def forward(self, x: Tensor, rois: Tensor) -> Tensor:
        """See detectron2's ROIAlign: pools features (N, C, H, W) in regions (R, 5) to (R, C, P, P)."""
        return self.pooler(x, rois - rois.new_tensor([0.0, 0.0, 0.0, 1.0, 1.0]))


def pool_to_last_pixel(pooler: ROIPooler) -> None:
    """Changes a pooler in place so that it samples up to the last pixel of a region; pyramid levels do not change."""
    pooler.level_poolers = nn.ModuleList(_ToLastPixel(level) for level in pooler.level_poolers)


class InclusiveBoxPredictor(FastRCNNOutputLayers):
    """detectron2's box predictor that clips boxes with `clip_to_pixels` at inference."""

    def predict_boxes(self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]) -> tuple[Tensor, ...]:
        """See FastRCNNOutputLayers; returns (R_i, 4 T) or (R_i, 4) boxes per image."""
        boxes = super().predict_boxes(predictions, proposals)
        return tuple(
            clip_to_pixels(b.unflatten(1, (-1, 4)), p.image_size).flatten(1)
            for b, p in zip(boxes, proposals, strict=True)
        )

"""Boxes that name their last pixel, for weights that were trained with them (UPSNet, after Detectron).

Boxes stay detectron2's everywhere: x0, y0, x1, y1 with exclusive ends. A box that names its first and last pixel,
(x0, y0, x1 - 1, y1 - 1), has the same width by that convention, x1 - x0, so decoding, NMS and the level of the pyramid
do not differ. What differs is gathered in this file: where the poolers read, and how boxes are clipped.
"""

from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Instances
from torch import Tensor, nn

BOX_CONVENTIONS = ("exclusive", "inclusive")


def clip_to_pixels(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Returns boxes whose first and last pixels are clipped to those of an image.

    A box outside of the image keeps the pixels at the border that are next to it, so that none is empty; detectron2
    clips it to an area of 0. Values that are not finite are left for later checks.

    Args:
        boxes: (..., 4) float, XYXY with exclusive ends, in pixels.
        size: (height, width) of the image.
    """
    height, width = size
    low = boxes.new_tensor([0.0, 0.0, 1.0, 1.0])
    high = boxes.new_tensor([width - 1.0, height - 1.0, width, height])
    return boxes.clamp(low, high).where(boxes.isfinite(), boxes)


class _ToLastPixel(nn.Module):
    """Pools (x0, y0, x1 - 1, y1 - 1) in place of (x0, y0, x1, y1), by the pooler of one level."""

    def __init__(self, pooler: nn.Module):
        super().__init__()
        self.pooler = pooler

    def forward(self, x: Tensor, rois: Tensor) -> Tensor:
        """See detectron2's ROIAlign: features (N, C, H, W) and regions (R, 5) to (R, C, P, P)."""
        return self.pooler(x, rois - rois.new_tensor([0.0, 0.0, 0.0, 1.0, 1.0]))


def pool_to_last_pixel(pooler: ROIPooler) -> None:
    """Lets a pooler read the regions up to the last pixel that they name, in place; their levels stay the same."""
    pooler.level_poolers = nn.ModuleList(_ToLastPixel(level) for level in pooler.level_poolers)


class InclusiveBoxPredictor(FastRCNNOutputLayers):
    """detectron2's box predictor, whose boxes at inference are clipped by `clip_to_pixels`."""

    def predict_boxes(self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]) -> tuple[Tensor, ...]:
        """See FastRCNNOutputLayers: (R_i, 4 T) or (R_i, 4) for each image."""
        boxes = super().predict_boxes(predictions, proposals)
        return tuple(
            clip_to_pixels(b.unflatten(1, (-1, 4)), p.image_size).flatten(1)
            for b, p in zip(boxes, proposals, strict=True)
        )

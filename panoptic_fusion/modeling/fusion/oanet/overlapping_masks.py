"""Masks that overlap, made of masks that do not: what the spatial ranking module learns from where a dataset has none.

Shape shorthand: R: instances of an image, H, W: size of the image, h, w: rows and columns that are looked at.
"""

import torch
from detectron2.structures import BitMasks
from torch import Tensor
from torch.nn import functional as F

from panoptic_fusion.layers.chunks import chunks_of_maps
from panoptic_fusion.modeling.fusion.mask_crops import PastedCrops

SIDE = 28  # of a mask head's output
REACH = 4  # texels: what is at most twice as wide, such as the hole that a tie leaves, is filled
MOVE = 0.1  # of the box: each of its sides moves by up to so much, inwards or outwards


def overlapping_masks(masks: Tensor, boxes: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """Masks as a mask head might predict them for the instances: closed, and on boxes that are not quite right.

    Each mask is cut out on its box at `SIDE` x `SIDE` texels, and holes and notches of up to 2 `REACH` texels are
    filled (morphological closing), so that an instance covers what stands in front of its middle. The result is laid
    onto the box after each side has moved by a random share, uniform in [-MOVE, MOVE], so that neighbours overlap.
    Random numbers come from torch's generator of the device: the same seed gives the same masks.

    Boxes move inwards as often as outwards. If they only grew, most contested pixels would be a rim around the thing in
    front, won by the one behind it, and the module would learn to paint ties last.

    Args:
        masks: (R, H, W) bool.
        boxes: (R, 4) float, the boxes of the masks, XYXY in pixels.
        rows, cols: (h,) and (w,) int64, which rows and columns of the image.

    Returns:
        (R, h, w) bool.
    """
    # detectron2 makes floats of whole masks to cut them out
    parts = chunks_of_maps(len(masks), masks.shape[1:], masks.device) or [slice(0, 0)]
    texels = torch.cat([BitMasks(masks[part]).crop_and_resize(boxes[part], SIDE) for part in parts]).float()[:, None]
    window = {"kernel_size": 2 * REACH + 1, "stride": 1, "padding": REACH}
    wide = F.max_pool2d(F.pad(texels, (REACH,) * 4), **window)
    closed = -F.max_pool2d(-wide, **window)[:, 0, REACH:-REACH, REACH:-REACH]
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    moved = boxes + sides * MOVE * (2 * torch.rand(boxes.shape, device=boxes.device) - 1)
    crops = PastedCrops(closed, moved, masks.shape[1:])
    return crops.sample(torch.arange(len(masks), device=masks.device), rows, cols)

"""Generates overlapping masks from disjoint ones, to train the spatial ranking module on datasets without overlaps.

Shapes: R is the number of instances in an image, H x W the image size, h and w the number of sampled rows and columns.
"""

import torch
from detectron2.structures import BitMasks
from torch import Tensor
from torch.nn import functional as F

from panoptic_fusion.layers.chunks import map_chunks
from panoptic_fusion.modeling.fusion.mask_crops import PastedCrops

SIDE = 28  # side of a mask head's output
REACH = 4  # in mask elements: gaps up to twice as wide, such as the hole that a tie leaves, are filled
MOVE = 0.1  # fraction of the box: each side moves by at most this much, inward or outward


def overlapping_masks(masks: Tensor, boxes: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """Returns masks similar to predictions of a mask head: closed, and on slightly wrong boxes.

    Each mask is cropped to its box at `SIDE` x `SIDE` mask elements. Holes and notches of up to 2 `REACH` elements are
    filled (morphological closing), so that an instance covers objects in front of its middle. Each side of the box then
    moves by a random fraction, uniform in [-MOVE, MOVE], and the mask is pasted onto the moved box, so that neighbors
    overlap. Random numbers come from the device's torch generator, so the same seed gives the same masks.

    Boxes move inward as often as outward. If they only grew, most contested pixels would form a rim around the front
    object and belong to the object behind it, and the module would learn to paint ties last.

    Args:
        masks: (R, H, W) bool.
        boxes: (R, 4) float, the boxes of the masks, XYXY in pixels.
        rows, cols: (h,) and (w,) int64, sampled rows and columns of the image.

    Returns:
        (R, h, w) bool.
    """
    # detectron2 converts whole masks to float to crop them
    parts = map_chunks(len(masks), masks.shape[1:], masks.device) or [slice(0, 0)]
    texels = torch.cat([BitMasks(masks[part]).crop_and_resize(boxes[part], SIDE) for part in parts]).float()[:, None]
    window = {"kernel_size": 2 * REACH + 1, "stride": 1, "padding": REACH}
    wide = F.max_pool2d(F.pad(texels, (REACH,) * 4), **window)
    closed = -F.max_pool2d(-wide, **window)[:, 0, REACH:-REACH, REACH:-REACH]
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    moved = boxes + sides * MOVE * (2 * torch.rand(boxes.shape, device=boxes.device) - 1)
    crops = PastedCrops(closed, moved, masks.shape[1:])
    return crops.sample(torch.arange(len(masks), device=masks.device), rows, cols)


def one_in_front(made: Tensor, visible: Tensor) -> Tensor:
    """Decides for each pair of generated masks which one is in front, and removes the overlaps that contradict it.

    Generated masks overlap on both sides of a border, which would teach both orders. An object in front shows more of
    the common cells than the object that it hides, whose closed mask extends under it. Of two masks, the one that shows
    fewer of the common cells therefore counts as the rear one, and the front one gives up the cells that show the rear
    one. If both show equally many, both stay.

    Args:
        made: (R, h, w) bool, masks that may overlap.
        visible: (R, h, w) bool, the disjoint masks from which they were made.

    Returns:
        (R, h, w) bool, a part of `made`.
    """
    claimed, shown = (x.flatten(1).float() for x in (made, made & visible))
    counts = shown @ claimed.t()  # [i, j]: cells of both masks that show i
    front = (counts > counts.t()).float()
    return made & ~(front @ shown > 0).view_as(made)

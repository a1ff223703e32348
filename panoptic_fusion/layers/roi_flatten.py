"""RoI-Flatten, which combines the box-relative masks of an image into one confidence map (TASCNet, section 3.2).

Shapes: R is the number of instances in an image, M the side of a mask (28), H x W the size of the map.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .chunks import map_chunks


def roi_flatten(masks: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float = 0.5) -> Tensor:
    """Returns the mean confidence at each pixel over the instances whose mask contains it.

    Each mask is interpolated bilinearly to its box, as in `F.interpolate` with align_corners=False (pixel centers;
    border elements extend to the edge of the box). Values below `threshold` and outside of the box are set to zero. The
    map is the sum of these masks divided by the number of nonzero masks at each pixel. A thresholded mask keeps its
    probabilities, which is our reading of "the thresholded mask is then added": a binary mask would have no gradient. A
    pixel belongs to a box if its center lies in it. The thresholded mask is the same as the mask that detectron2
    pastes, except within half a mask element of the edge of the box, where `paste_masks_in_image` interpolates towards
    zero.

    The result is differentiable in `masks` where they reach the threshold. Boxes and thresholding have no gradient.
    Forward and backward both process instances in chunks and compute the interpolated masks, so only masks, boxes and
    one (H, W) count are kept in between. The function does not synchronize with the CPU. The result does not depend on
    the number of chunks, up to rounding.

    Args:
        masks: (R, M, M) float, probabilities in [0, 1]. Half precision is computed in float32.
        boxes: (R, 4) float, XYXY in pixels of the map (not of the image, if the map is smaller). They may extend past
            its border or be empty.
        size: (H, W).
        threshold: minimum probability of a mask's pixels, in (0, 1].

    Returns:
        (H, W) float in {0} and [threshold, 1]; zeros if R = 0.

    Raises:
        ValueError: if the shapes of masks and boxes do not match.
    """
    if masks.dim() != 3 or masks.shape[1] != masks.shape[2] or boxes.shape != (len(masks), 4):
        raise ValueError(
            f"roi_flatten needs masks (R, M, M) and boxes (R, 4), not {tuple(masks.shape)} and {tuple(boxes.shape)}"
        )
    masks = masks.to(torch.promote_types(masks.dtype, torch.float32))
    return _RoIFlatten.apply(masks, boxes.detach().to(masks.dtype), tuple(size), float(threshold))


class _RoIFlatten(torch.autograd.Function):
    @staticmethod
    def forward(ctx, masks: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float) -> Tensor:
        total, count = masks.new_zeros(size), masks.new_zeros(size)
        with torch.autocast(masks.device.type, enabled=False):
            for rows in map_chunks(len(masks), size, masks.device):
                values, kept, _, _ = _spread(masks[rows], boxes[rows], size, threshold)
                total += values.mul_(kept).sum(0)
                count += kept.sum(0)
        count.clamp_(min=1)
        ctx.save_for_backward(masks, boxes, count)
        ctx.size, ctx.threshold = size, threshold
        return total.div_(count)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        masks, boxes, count = ctx.saved_tensors
        share = grad / count
        result = torch.empty_like(masks)
        with torch.autocast(masks.device.type, enabled=False):
            for rows in map_chunks(len(masks), ctx.size, masks.device):
                _, kept, down, across = _spread(masks[rows], boxes[rows], ctx.size, ctx.threshold)
                result[rows] = down.transpose(1, 2) @ (kept * share) @ across
        return result, None, None, None


def _spread(masks: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float):
    """Interpolates masks to their boxes.

    Returns:
        values (R, H, W), whether they reach the threshold (R, H, W), and matrices `down` (R, H, M) and `across`
        (R, W, M) with values = down @ masks @ across^T.
    """
    down = _interpolation(boxes[:, 1], boxes[:, 3], size[0], masks.shape[-1])
    across = _interpolation(boxes[:, 0], boxes[:, 2], size[1], masks.shape[-1])
    values = down @ masks @ across.transpose(1, 2)
    return values, values >= threshold, down, across


def _interpolation(start: Tensor, end: Tensor, length: int, side: int) -> Tensor:
    """Returns the weights of `side` mask elements at `length` pixels along one axis of the box: (R, length, side)."""
    centres = torch.arange(length, device=start.device, dtype=start.dtype) + 0.5
    texels = torch.arange(side, device=start.device, dtype=start.dtype)
    extent = (end - start).clamp(min=1e-6)
    position = ((centres - start[:, None]) / extent[:, None] * side - 0.5).clamp(0, side - 1)
    inside = (centres >= start[:, None]) & (centres < end[:, None])
    weights = (1 - (position[..., None] - texels).abs()).clamp(min=0)
    return weights * inside[..., None]

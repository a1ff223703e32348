"""UPSNet's panoptic head in training (section 3.1), at 1/4 of the input resolution (section 3.2).

The loss is the cross entropy over [stuff, unknown, instances] at every pixel of the semantic logits, with ground-truth
boxes, masks and classes. The unknown channel is not last, so that it has the same index in all images of a batch. The
loss does not depend on the order.

The loss represents instances as a flat list of (instance, pixel of its box) over all images of the batch, never as
N x h x w maps. An instance has the logit 0 outside its box, so counting the zeros is enough.

Deviations from the published code, which uses one image per process:
- The mean is over all pixels of the padded batch.
- Images without things are used for training. The published code skips them.
- n rows of the ground truth have ceil(n / 4) rows at 1/4 resolution, every fourth one. The published code has
  round(n / 4).

Shapes: N is the batch size, C = S + T the number of semantic channels, h x w the resolution of the logits, R_i the
number of ground-truth instances of image i that have a channel, R their number in all images, P the number of pixels of
all R boxes, M the side of a mask head's output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from panoptic_fusion.data.label_space import IGNORE_LABEL
from panoptic_fusion.layers.chunks import map_chunks
from panoptic_fusion.modeling.fusion.upsnet.mask_logit_crops import ResizedLogitCrops
from panoptic_fusion.modeling.fusion.upsnet.unknown_channel import unknown_logits, x_mask_fill_value
from panoptic_fusion.modeling.fusion.window_pixels import WindowPixels, WindowTable

IGNORED = -1


@dataclass(frozen=True)
class KnownInstances:
    """The R_i ground-truth instances of one image that have a channel, in channel order.

    Attributes:
        boxes: (R_i, 4) float, XYXY in pixels of the network's input.
        classes: (R_i,) int64 thing ids.
        mask_logits: (R_i, M, M) float, mask logits of these classes on these boxes.
    """

    boxes: Tensor
    classes: Tensor
    mask_logits: Tensor


def panoptic_targets(
    gt_sem_seg: Tensor,
    gt_masks: Sequence[Tensor],
    known: Sequence[Tensor],
    *,
    num_stuff: int,
    stride: int,
    unknown: bool = True,
) -> Tensor:
    """Returns the target channel of each pixel.

    A pixel belongs to the last instance in channel order whose mask covers it, even if it is stuff or void in the
    semantic ground truth. Among the other pixels, stuff stays stuff and void is ignored. Thing pixels become unknown if
    they belong to excluded instances or crowd regions, or if no mask covers them. Labels are sampled at every
    `stride`-th pixel. The paper only mentions the excluded instances; the rest follows the published code.

    Args:
        gt_sem_seg: (N, H, W) int64 channels, 255 where there is no ground truth and on padding.
        gt_masks: bool masks (K_i, height, width) of all instances per image, of the unpadded image.
        known: int64 indices (R_i,), per image, of the instances that have a channel, in channel order.
        num_stuff: S, the number of stuff classes.
        stride: stride of the result in pixels.
        unknown: whether there is an unknown channel. Without it, pixels that would become unknown are ignored.

    Returns:
        (N, h, w) int64: s < S for stuff, S for unknown, S + 1 + i for the i-th instance, -1 where ignored.
    """
    labels = gt_sem_seg[:, ::stride, ::stride]
    targets = labels.clamp(max=num_stuff)
    if not unknown:
        targets.masked_fill_(labels >= num_stuff, IGNORED)
    targets.masked_fill_(labels == IGNORE_LABEL, IGNORED)
    for target, masks, rows in zip(targets, gt_masks, known, strict=True):
        masks = masks[:, ::stride, ::stride]  # a view
        part = target[: masks.shape[1], : masks.shape[2]]
        channels = torch.arange(num_stuff + 1, num_stuff + 1 + len(rows), dtype=torch.int16, device=rows.device)
        for chunk in map_chunks(len(rows), part.shape, rows.device):
            highest = (masks[rows[chunk]] * channels[chunk, None, None]).amax(0)
            part.copy_(torch.where(highest > 0, highest, part))  # later channels are higher
    return targets


def panoptic_loss(
    logits: Tensor, instances: Sequence[KnownInstances], targets: Tensor, *, num_stuff: int, stride: int, unknown: bool
) -> Tensor:
    """Returns the cross entropy of the panoptic logits, as the mean over all pixels. Ignored pixels count as 0.

    The published code also includes ignored pixels in the mean. The padding of images in a batch is included as well.

    Args:
        logits: (N, C, h, w) float semantic logits, C = S + T. Half precision is converted to float32.
        instances: instances of each image that have a channel.
        targets: (N, h, w), result of `panoptic_targets` for the masks of these instances.
        num_stuff: S, the number of stuff classes.
        stride: stride of the logits in pixels of the network's input.
        unknown: whether there is an unknown channel.

    Returns:
        A scalar, differentiable in `logits` and in the mask logits.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    num_images, num_channels, height, width = logits.shape
    device, area = logits.device, height * width
    per_image = torch.tensor([len(x.classes) for x in instances], device=device)
    image = [i for i, x in enumerate(instances) for _ in range(len(x.classes))]
    own_target = num_stuff + 1 + torch.cat([torch.arange(len(x.classes), device=device) for x in instances])

    # X_mask, X_mask + Y_mask and the pixel of the batch, for all pixels of all boxes: (P,).
    mask_logits = torch.cat([x.mask_logits.to(logits.dtype) for x in instances])
    masks = ResizedLogitCrops(mask_logits, torch.cat([x.boxes for x in instances]), (height, width), stride)
    (pixels,) = WindowPixels.each([WindowTable.of(masks.windows, range(len(image)), image)], device)
    pixel = pixels.layered_addresses(masks.size)
    # From (image, pixel) to (image, channel, pixel).
    shift = torch.cat([i * (num_channels - 1) + num_stuff + x.classes for i, x in enumerate(instances)]) * area
    x_mask = logits.flatten().index_select(0, pixel + pixels.of_windows(shift))
    z_mask = x_mask + masks.logits_at(pixels)

    # For each pixel, the number of instances of its image whose box does not contain it. Their logits are 0.
    per_pixel = per_image.repeat_interleave(area)
    num_outside = (per_pixel - torch.bincount(pixel, minlength=len(per_pixel))).to(logits.dtype)

    if unknown:
        highest_x = x_mask_fill_value((num_outside > 0) | (per_pixel == 0), logits.dtype)
        highest_x = highest_x.scatter_reduce(0, pixel, x_mask, "amax").view(num_images, height, width)
        z_unknown = unknown_logits(logits[:, num_stuff:].amax(1), highest_x)
    else:
        z_unknown = torch.full_like(logits[:, 0], -torch.inf, requires_grad=False)
    dense = torch.cat([logits[:, :num_stuff], z_unknown[:, None]], dim=1)

    # Cross entropy is log(sum(exp(z))) - z[target]. Logits relative to the highest one cannot overflow.
    with torch.no_grad():
        highest = dense.amax(1).flatten().scatter_reduce(0, pixel, z_mask, "amax")
        highest = torch.where(num_outside > 0, highest.clamp(min=0), highest)
    total = (dense - highest.view(num_images, 1, height, width)).exp().sum(1).flatten()
    total = total.index_add(0, pixel, (z_mask - highest[pixel]).exp())
    total = total + num_outside * (-highest.clamp(min=0)).exp()

    target = targets.flatten()
    z_target = dense.gather(1, targets.clamp(0, num_stuff)[:, None]).flatten()
    z_target = torch.where(target <= num_stuff, z_target, 0)
    z_target = z_target.index_add(0, pixel, z_mask * (target[pixel] == pixels.of_windows(own_target)))
    loss = torch.where(target == IGNORED, 0, highest + total.log() - z_target)
    return loss.sum() / loss.numel()

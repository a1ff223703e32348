"""UPSNet's panoptic head in training (section 3.1): cross entropy over [stuff, unknown, instances] at every pixel of
the semantic logits, with the ground-truth boxes, masks and classes.

The channels are in this order here, not with the unknown channel last, so that it has one number in all images of a
batch; the loss does not depend on it.

In the loss, instances exist as a flat list of (instance, pixel of its box), over all images of the batch, never as
N x h x w maps: outside of its box an instance has the logit 0, of which it is enough to count how many there are.

Deviations from the published implementation, which has one image a process:
- The mean is over all pixels of the padded batch.
- Images without things are trained on; there they are left out.
- Of n rows of the ground truth, ceil(n / 4) are at 1/4, every fourth one; there round(n / 4).

Shape shorthand: N: images, C = S + T: semantic channels, h, w: size of the logits, R_i: ground-truth instances of image
i that have a channel, R: of all images, P: pixels of all R boxes together, M: side of a mask head's output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from panoptic_fusion.data.label_space import IGNORE_LABEL
from panoptic_fusion.layers.chunks import chunks_of_maps
from panoptic_fusion.modeling.fusion.upsnet.boxes import BoxPixels
from panoptic_fusion.modeling.fusion.upsnet.unknown_channel import unknown_logits, x_mask_outside

IGNORED = -1


@dataclass(frozen=True)
class KnownInstances:
    """The R_i ground-truth instances of one image that have a channel, in the order of their channels.

    Attributes:
        boxes: (R_i, 4) float, XYXY in pixels of the network's input.
        classes: (R_i,) int64 thing ids.
        mask_logits: (R_i, M, M) float, of these classes on these boxes.
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
    """The channel that each pixel should have.

    A pixel belongs to the last instance in the order of the channels whose mask covers it, be it stuff or void in the
    semantic ground truth. Of the rest, stuff stays stuff, void is ignored, and thing pixels become unknown: those of
    the instances left out, of crowds, and those that the masks miss. Labels are those of every `stride`-th pixel.

    Args:
        gt_sem_seg: (N, H, W) int64 channels, 255 where there is no ground truth and on padding.
        gt_masks: for each image (K_i, height, width) bool masks of all instances, of the unpadded image.
        known: for each image (R_i,) int64, those that have a channel, in the order of their channels.
        num_stuff: S.
        stride: pixels per pixel of the result.
        unknown: False: what would become unknown is ignored.

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
        for chunk in chunks_of_maps(len(rows), part.shape, rows.device):
            highest = (masks[rows[chunk]] * channels[chunk, None, None]).amax(0)
            part.copy_(torch.where(highest > 0, highest, part))  # later channels are higher
    return targets


def panoptic_loss(
    logits: Tensor, instances: Sequence[KnownInstances], targets: Tensor, *, num_stuff: int, stride: int, unknown: bool
) -> Tensor:
    """Cross entropy of the panoptic logits: mean over all pixels, those that are ignored included (they count as 0).

    That is what the authors' implementation averages over. Images padded to the size of a batch count with their
    padding.

    Args:
        logits: (N, C, h, w) float semantic logits, C = S + T; half precision is computed in float32.
        instances: for each image those with a channel.
        targets: (N, h, w), what `panoptic_targets` returns for the masks of these instances.
        num_stuff: S.
        stride: pixels of the network's input per pixel of the logits.
        unknown: whether there is an unknown channel.

    Returns:
        A scalar; differentiable in `logits` and in the mask logits.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    num_images, num_channels, height, width = logits.shape
    device, area = logits.device, height * width
    per_image = torch.tensor([len(x.classes) for x in instances], device=device)
    image = torch.repeat_interleave(per_image)
    channel = num_stuff + torch.cat([x.classes for x in instances])
    own_target = num_stuff + 1 + torch.cat([torch.arange(len(x.classes), device=device) for x in instances])

    # X_mask, X_mask + Y_mask and the pixel of the batch, for all pixels of all boxes: (P,).
    boxes = BoxPixels.of_boxes(torch.cat([x.boxes for x in instances]), (height, width), stride)
    place = boxes.row * width + boxes.col
    pixel = (image * area)[boxes.instance] + place
    x_mask = logits.flatten().index_select(0, ((image * num_channels + channel) * area)[boxes.instance] + place)
    z_mask = x_mask + boxes.resized(torch.cat([x.mask_logits.to(logits.dtype) for x in instances]))

    # How many instances of its image a pixel is outside of; each of them has the logit 0 there.
    per_pixel = per_image.repeat_interleave(area)
    num_outside = (per_pixel - torch.bincount(pixel, minlength=len(per_pixel))).to(logits.dtype)

    if unknown:
        highest_x = x_mask_outside((num_outside > 0) | (per_pixel == 0), logits.dtype)
        highest_x = highest_x.scatter_reduce(0, pixel, x_mask, "amax").view(num_images, height, width)
        z_unknown = unknown_logits(logits[:, num_stuff:].amax(1), highest_x)
    else:
        z_unknown = torch.full_like(logits[:, 0], -torch.inf, requires_grad=False)
    dense = torch.cat([logits[:, :num_stuff], z_unknown[:, None]], dim=1)

    # Cross entropy is log(sum(exp(z))) - z of the target; logits relative to the highest one cannot overflow.
    with torch.no_grad():
        highest = dense.amax(1).flatten().scatter_reduce(0, pixel, z_mask, "amax")
        highest = torch.where(num_outside > 0, highest.clamp(min=0), highest)
    total = (dense - highest.view(num_images, 1, height, width)).exp().sum(1).flatten()
    total = total.index_add(0, pixel, (z_mask - highest[pixel]).exp())
    total = total + num_outside * (-highest.clamp(min=0)).exp()

    target = targets.flatten()
    z_target = dense.gather(1, targets.clamp(0, num_stuff)[:, None]).flatten()
    z_target = torch.where(target <= num_stuff, z_target, 0)
    z_target = z_target.index_add(0, pixel, z_mask * (target[pixel] == own_target[boxes.instance]))
    loss = torch.where(target == IGNORED, 0, highest + total.log() - z_target)
    return loss.sum() / loss.numel()

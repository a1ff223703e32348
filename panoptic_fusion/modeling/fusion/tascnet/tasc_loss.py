"""Things and Stuff Consistency (TASCNet, section 3.2): a loss between the things masks of the two heads.

Shapes: N is the batch size, C the number of semantic channels, h x w the resolution of the logits, H x W the padded
network input, a x b the resolution at which the masks are compared, R the number of instances in an image, M the side
of a mask head's output.
"""

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torch.nn import functional as F

from panoptic_fusion.data.label_space import LabelSpace
from panoptic_fusion.errors import ConfigError
from panoptic_fusion.layers.roi_flatten import roi_flatten
from panoptic_fusion.modeling.fusion.base import OUTPUT_REGISTRY, PanopticFusion

THINGS_PROBABILITIES = ("sum", "winner")
THRESHOLD = 0.5  # for the semantic mask, as in the paper; instance masks use the default of `roi_flatten`


def semantic_things_mask(
    logits: Tensor, num_stuff: int, size: tuple[int, int] | None = None, of: str = "sum"
) -> Tensor:
    """Returns the thresholded probability of things from the semantic logits.

    By default, it is the softmax probability of all thing classes together where this is above 0.5, and 0 elsewhere. In
    the `collapsed` ontology it is the probability of the single things channel. It is differentiable in the logits
    above 0.5.

    Not specified in the paper: this project reads the "logits" that a threshold of 0.5 applies to as softmax
    probabilities, and "their logit values" as the sum over the thing classes. With the winning class alone, pixels with
    probability split between two thing classes (a sign before a bus) fall below the threshold, and the loss removes
    them from both instances' masks. On toy scenes that cost buses and signs most of their PQ (docs/tascnet.md).

    Args:
        logits: (N, C, h, w) float, stuff channels first, then things.
        num_stuff: S < C, the number of stuff channels.
        size: (a, b) of the result. The probability is resized bilinearly before the threshold. None means (h, w).
        of: "sum" for all thing classes together, "winner" for the most probable thing class (the literal reading).

    Returns:
        (N, a, b) float in {0} and (0.5, 1].
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    things = logits[:, num_stuff:]
    things = things.amax(1, keepdim=True) if of == "winner" else things.logsumexp(1, keepdim=True)
    probability = (things - logits.logsumexp(1, keepdim=True)).exp()
    if size is not None and tuple(size) != tuple(logits.shape[-2:]):
        probability = F.interpolate(probability, size=size, mode="bilinear", align_corners=False)
    return (probability * (probability > THRESHOLD))[:, 0]


def instance_things_mask(mask_logits: list[Tensor], boxes: list[Boxes], size: tuple[int, int], stride: float) -> Tensor:
    """Returns the things mask of the mask head: RoI-Flatten of the mask probabilities, one map per image.

    Args:
        mask_logits: raw logits (R, M, M) of the instances' classes, per image.
        boxes: R boxes per image, in pixels of the network's input.
        size: (a, b) of the result.
        stride: stride of the result in pixels of the network's input.

    Returns:
        (N, a, b) float in {0} and [0.5, 1].
    """
    return torch.stack(
        [
            roi_flatten(logits.to(torch.promote_types(logits.dtype, torch.float32)).sigmoid(), x.tensor / stride, size)
            for logits, x in zip(mask_logits, boxes, strict=True)
        ]
    )


def tasc_loss(semantic: Tensor, instance: Tensor, valid: Tensor) -> Tensor:
    """Returns the mean squared residual of the two masks over the valid pixels of the batch.

    The paper minimizes the residual "using an L2 loss". The mean over the pixels of the batch is our choice.

    Args:
        semantic, instance: (N, a, b) float in [0, 1]; both get gradients.
        valid: (N, a, b) bool.

    Returns:
        A scalar; 0 with a gradient if no pixel is valid.
    """
    return ((semantic - instance).square() * valid).sum() / valid.sum().clamp(min=1)


def things_masks(
    logits: Tensor,
    instances: Instances,
    label_space: LabelSpace,
    padded_size: tuple[int, int],
    image_size: tuple[int, int],
    things_probability: str = "sum",
) -> tuple[Tensor, Tensor]:
    """Returns both things masks of one image at inference, with predicted instances instead of positive proposals.

    Args:
        logits: (C, h, w) semantic logits of the padded input; C > S.
        instances: R instances with pred_boxes, in pixels of the network's input, and pred_mask_logits (R, M, M).
        label_space: provides S, the number of stuff classes.
        padded_size, image_size: (height, width) of the network's input with and without padding.
        things_probability: see `of` of `semantic_things_mask`.

    Returns:
        The semantic mask and the instance mask, each (a, b) float in [0, 1], at the resolution of the logits without
        padding. The residual in TASCNet's figure 3 is |difference|.

    Raises:
        ConfigError: if there is no things channel (ontology "stuff").
    """
    if len(logits) <= label_space.num_stuff:
        raise ConfigError("MODEL.SEM_SEG_HEAD.ONTOLOGY is 'stuff': there is no semantic mask of things to compare")
    size = tuple(logits.shape[-2:])
    stride = padded_size[0] // size[0]
    semantic = semantic_things_mask(logits[None], label_space.num_stuff, of=things_probability)[0]
    instance = instance_things_mask([instances.pred_mask_logits], [instances.pred_boxes], size, stride)[0]
    height, width = (-(-side // stride) for side in image_size)
    return semantic[:height, :width], instance[:height, :width]


def things_masks_output(fusion: PanopticFusion, logits, instances, padded_size, image_size) -> tuple[Tensor, Tensor]:
    """Returns `things_masks` of the instances that pass the fusion's score threshold; see OUTPUT_REGISTRY."""
    kept = instances[instances.scores >= fusion.instances_confidence_thresh]
    probability = getattr(fusion, "things_probability", "sum")
    return things_masks(logits, kept, fusion.label_space, padded_size, image_size, probability)


OUTPUT_REGISTRY._do_register("things_masks", things_masks_output)


def valid_pixel_mask(
    gt_sem_seg: Tensor, gt_instances: list[Instances], *, num_stuff: int, stride: int, ignore_value: int = 255
) -> Tensor:
    """Returns the pixels on which the two masks should agree: labeled stuff and pixels of ground-truth instances.

    The paper does not mention exceptions. This project excludes two kinds of pixels:
    - void and padding, on which the stuff head is not trained;
    - thing pixels without a ground-truth instance (crowd regions), which the stuff head learns to label as things
      while no positive proposal covers them.

    Args:
        gt_sem_seg: (N, H, W) int64 channels, `ignore_value` where there is no ground truth and on padding.
        gt_instances: Instances per image, with gt_masks (R, height, width) BitMasks of the unpadded image.
        num_stuff: S, the number of stuff channels. Channels from S on are things.
        stride: stride of the result. Each pixel samples the center of its stride x stride input pixels.

    Returns:
        (N, H/stride, W/stride) bool.
    """
    offset = stride // 2
    labels = gt_sem_seg[:, offset::stride, offset::stride]
    stuff = labels < num_stuff
    things = torch.zeros_like(stuff)
    for covered, instances in zip(things, gt_instances, strict=True):
        masks = instances.gt_masks.tensor[:, offset::stride, offset::stride]
        covered[: masks.shape[1], : masks.shape[2]] = masks.any(0)
    return (labels != ignore_value) & (stuff | things)

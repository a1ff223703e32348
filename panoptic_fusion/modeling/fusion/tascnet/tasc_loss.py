"""Things and Stuff Consistency (TASCNet, section 3.2): both heads say which pixels are things; the loss is how far
apart.

Shape shorthand: N: images, C: semantic channels, h, w: size of the logits, H, W: of the padded network input, a, b:
size at which the masks are compared, R: instances of an image, M: side of a mask head's output.
"""

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torch.nn import functional as F

from panoptic_fusion.data.label_space import LabelSpace
from panoptic_fusion.errors import ConfigError
from panoptic_fusion.layers.roi_flatten import roi_flatten
from panoptic_fusion.modeling.fusion.base import OUTPUT_REGISTRY, PanopticFusion

THRESHOLD = 0.5  # of the semantic mask, in the paper; that of the instances' masks is `roi_flatten`'s default


def semantic_things_mask(logits: Tensor, num_stuff: int, size: tuple[int, int] | None = None) -> Tensor:
    """Where the semantic side sees things, and how sure it is.

    The softmax probability of all thing classes together where it is above 0.5, else 0. In the `collapsed` ontology it
    is that of the one things channel. Differentiable in the logits above 0.5.

    Where the paper leaves room: its "logits" that a threshold of 0.5 applies to are read as softmax probabilities, and
    "their logit values" as the sum over the thing classes. With the winning class alone, a pixel torn between two
    thing classes (a sign before a bus) counts as no thing, and the loss then takes it away from both instances'
    masks: on toy scenes that cost buses and signs most of their PQ (docs/tascnet.md).

    Args:
        logits: (N, C, h, w) float; channels of stuff first, then things.
        num_stuff: S < C, the number of stuff channels.
        size: (a, b) of the result; the probability is resized bilinearly before the threshold. None: (h, w).

    Returns:
        (N, a, b) float in {0} and (0.5, 1].
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    things = logits[:, num_stuff:].logsumexp(1, keepdim=True)
    probability = (things - logits.logsumexp(1, keepdim=True)).exp()
    if size is not None and tuple(size) != tuple(logits.shape[-2:]):
        probability = F.interpolate(probability, size=size, mode="bilinear", align_corners=False)
    return (probability * (probability > THRESHOLD))[:, 0]


def instance_things_mask(mask_logits: list[Tensor], boxes: list[Boxes], size: tuple[int, int], stride: float) -> Tensor:
    """Where the mask head sees things: RoI-Flatten of the probabilities, one map an image.

    Args:
        mask_logits: for each image (R, M, M) raw logits of the instances' classes.
        boxes: for each image R boxes, in pixels of the network's input.
        size: (a, b) of the result.
        stride: pixels of the network's input per pixel of the result.

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
    """Mean squared residual of the two masks over the valid pixels of the batch (the paper's L2 loss).

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
) -> tuple[Tensor, Tensor]:
    """Both masks of one image at inference, with predicted instances in the place of positive proposals.

    Args:
        logits: (C, h, w) semantic logits of the padded input; C > S.
        instances: R instances with pred_boxes, in pixels of the network's input, and pred_mask_logits (R, M, M).
        label_space: says S.
        padded_size, image_size: (height, width) of the network's input with and without padding.

    Returns:
        The semantic and the instance mask, each (a, b) float in [0, 1], the size of the logits without padding. The
        residual that TASCNet's figure 3 shows is |difference|.

    Raises:
        ConfigError: there is no things channel (ontology "stuff").
    """
    if len(logits) <= label_space.num_stuff:
        raise ConfigError("MODEL.SEM_SEG_HEAD.ONTOLOGY is 'stuff': there is no semantic mask of things to compare")
    size = tuple(logits.shape[-2:])
    stride = padded_size[0] // size[0]
    semantic = semantic_things_mask(logits[None], label_space.num_stuff)[0]
    instance = instance_things_mask([instances.pred_mask_logits], [instances.pred_boxes], size, stride)[0]
    height, width = (-(-side // stride) for side in image_size)
    return semantic[:height, :width], instance[:height, :width]


def things_masks_output(fusion: PanopticFusion, logits, instances, padded_size, image_size) -> tuple[Tensor, Tensor]:
    """Returns `things_masks` of the instances that the fusion's score threshold lets pass; see OUTPUT_REGISTRY."""
    kept = instances[instances.scores >= fusion.instances_confidence_thresh]
    return things_masks(logits, kept, fusion.label_space, padded_size, image_size)


OUTPUT_REGISTRY._do_register("things_masks", things_masks_output)


def comparable_pixels(
    gt_sem_seg: Tensor, gt_instances: list[Instances], *, num_stuff: int, stride: int, ignore_value: int = 255
) -> Tensor:
    """Where the two masks can be expected to agree: the pixels with ground truth that are stuff or a trained instance.

    The paper names no exception. Left out here: void and padding, which the semantic head never learns; and thing
    pixels that belong to no ground-truth instance (crowds), which it learns to call things while no positive proposal
    covers them.

    Args:
        gt_sem_seg: (N, H, W) int64 channels, `ignore_value` where there is no ground truth and on padding.
        gt_instances: for each image Instances with gt_masks (R, height, width) BitMasks of the unpadded image.
        num_stuff: S; channels from S on are things.
        stride: of the result; each pixel looks at the middle of its stride x stride pixels.

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

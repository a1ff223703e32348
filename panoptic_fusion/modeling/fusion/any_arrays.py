"""Converts torch tensors, numpy arrays and COCO RLEs to the inputs of a fusion.

Shapes: R instances, C semantic channels, M x M mask logits on a box, H x W pixels of the output.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, Instances
from torch import Tensor

from panoptic_fusion.data.importers.encodings import decode_coco_rle
from panoptic_fusion.data.importers.masks import Crop
from panoptic_fusion.errors import UserError, one_line
from panoptic_fusion.modeling.fusion.class_numbers import ClassNumbers
from panoptic_fusion.modeling.fusion.cropped_masks import CroppedMasks
from panoptic_fusion.modeling.fusion.label_map import LabelMap
from panoptic_fusion.modeling.fusion.sem_seg_logits import SemSegLogits

Size = tuple[int, int]


def to_tensor(value: Any, name: str) -> Tensor:
    """Converts a value to a torch tensor, without a copy if possible.

    Raises:
        UserError: the value is not a tensor, an array or a sequence of numbers; the message contains `name`.
    """
    if isinstance(value, Tensor):
        return value.detach()
    try:
        array = np.ascontiguousarray(value) if np.ndim(value) else np.asarray(value)
        if array.size == 0 and array.dtype == np.float64:
            array = array.astype(np.float32)
        return torch.from_numpy(array if array.flags.writeable else array.copy())
    except (TypeError, ValueError, RuntimeError):
        raise UserError(f"{name} must be a torch tensor or a numpy array, not {type(value).__name__}") from None


def read_sem_seg(
    sem_seg: Tensor, classes: ClassNumbers, size: Size | None
) -> tuple[SemSegLogits | LabelMap, int | None]:
    """Returns the semantic input of a fusion, and the number of its thing channels (None for label maps).

    Args:
        sem_seg: (C, h, w) float logits or probabilities, or (H, W) integer labels.
        classes: numbering of the stuff and thing classes.
        size: (H, W) to which logits are resized bilinearly. None: they are not resized.

    Raises:
        UserError: the shape, dtype, channels or size are invalid.
    """
    if sem_seg.dim() == 2 and not sem_seg.is_floating_point() and not sem_seg.is_complex():
        if size is not None and tuple(sem_seg.shape) != size:
            raise UserError(
                f"sem_seg is a label map of size {tuple(sem_seg.shape)}, but the output has {size}: resize it with "
                "nearest-neighbor interpolation, or pass logits"
            )
        return LabelMap(classes.label_channels(sem_seg), classes.num_stuff + classes.num_things + 1), None
    if sem_seg.dim() != 3 or not sem_seg.is_floating_point() or 0 in sem_seg.shape[1:]:
        raise UserError(
            f"sem_seg has the shape {tuple(sem_seg.shape)} and dtype {sem_seg.dtype}: pass float logits or "
            "probabilities (C, H, W), or an integer label map (H, W)"
        )
    order, num_things = classes.channel_order(len(sem_seg))
    logits = sem_seg if order is None else sem_seg[order]
    height, width = logits.shape[1:]
    size = size or (height, width)
    stride = size[0] // height
    if stride >= 1 and size == (height * stride, width * stride):
        return SemSegLogits(logits, size, size, size), num_things
    return SemSegLogits(logits, (height, width), (height, width), size), num_things


def read_masks(masks: Any, boxes: Tensor | None, device: torch.device) -> tuple[Tensor | CroppedMasks, bool]:
    """Returns the masks of R instances, and whether they are mask logits on boxes.

    Args:
        masks: (R, H, W) bool or integer (0: outside), R COCO RLEs, `CroppedMasks`, or with boxes (R, M, M) float
            logits. A second dimension of 1, as in (R, 1, M, M), is dropped. None: no instances.
        boxes: (R, 4), or None.
        device: device of the result.

    Returns:
        (R, H, W) bool, a tensor or `CroppedMasks`, or (R, M, M) float. Without instances H and W are 0 unless the
        array has them.

    Raises:
        UserError: the masks have none of these formats.
    """
    if isinstance(masks, (list, tuple)) and masks and isinstance(masks[0], Mapping):
        crops, all_sizes = zip(*(_decode(rle, row) for row, rle in enumerate(masks)), strict=True)
        size, *others = sorted(set(all_sizes))
        if others:
            raise UserError(f"masks: the RLEs have different sizes, {[size, *others]}")
        masks = CroppedMasks.of_crops(crops, size)
    if masks is None or len(masks) == 0:
        shape = tuple(getattr(masks, "shape", ()))
        own_size = shape[-2:] if len(shape) in (3, 4) and boxes is None else (0, 0)
        return torch.zeros(0, *own_size, dtype=torch.bool, device=device), False
    if isinstance(masks, CroppedMasks):
        return masks.to(device), False
    if isinstance(masks, (list, tuple)):
        masks = torch.stack([to_tensor(mask, "masks") for mask in masks])
    masks = to_tensor(masks, "masks").to(device)
    if masks.dim() == 4 and masks.shape[1] == 1:
        masks = masks[:, 0]
    if masks.dim() != 3 or masks.is_complex():
        raise UserError(f"masks has the shape {tuple(masks.shape)}: pass (R, H, W), or (R, M, M) logits with boxes")
    if not masks.is_floating_point():
        return masks if masks.dtype == torch.bool else masks != 0, False
    if boxes is None or masks.shape[1] != masks.shape[2]:
        raise UserError(
            f"masks is {masks.dtype} of shape {tuple(masks.shape)}: pass `masks > 0.5` for full-size probabilities, or "
            "square mask logits (R, M, M) with boxes"
        )
    lowest, highest = masks.aminmax()
    if lowest >= 0 and highest <= 1:
        raise UserError(
            "masks on boxes must be logits, from before the sigmoid, but all values are in [0, 1]: pass "
            "torch.logit(masks, eps=1e-6)"
        )
    return masks, True


def read_instances(
    masks: Tensor | CroppedMasks, on_boxes: bool, boxes: Tensor | None, scores: Tensor, classes: Tensor, size: Size
) -> Instances:
    """Returns R instances in the format of the fusion modules.

    Args:
        masks, on_boxes: see `read_masks`.
        boxes: (R, 4) XYXY with exclusive ends, in pixels of the output. None: computed from the masks.
        scores: (R,) scores.
        classes: (R,) int64 thing classes, 0..T-1.
        size: (H, W) of the output.

    Raises:
        UserError: lengths, shapes or sizes differ.
    """
    num = len(masks)
    for name, value, shape in (("scores", scores, (num,)), ("classes", classes, (num,)), ("boxes", boxes, (num, 4))):
        if value is not None and tuple(value.shape) != shape and (num or value.numel()):
            raise UserError(f"{name} has the shape {tuple(value.shape)}, but {num} masks need {shape}")
    if num == 0:
        masks = masks.new_zeros(0, *size)
    if not on_boxes and tuple(masks.shape[1:]) != size:
        raise UserError(
            f"masks have the size {tuple(masks.shape[1:])}, but the output has {size}: bring them to the same size"
        )
    if isinstance(masks, CroppedMasks) and boxes is None:
        boxes = masks.boxes
    elif boxes is None:
        boxes = BitMasks(masks).get_bounding_boxes().tensor if num else masks.new_zeros(0, 4)
    instances = Instances(
        size,
        pred_boxes=Boxes(boxes.reshape(num, 4).float()),
        scores=(scores if scores.is_floating_point() else scores.float()).reshape(num),
        pred_classes=classes.reshape(num),
    )
    instances.set("pred_mask_logits" if on_boxes else "pred_masks", masks)
    return instances


def _decode(rle: Mapping, row: int) -> tuple[Crop, Size]:
    """Decodes a COCO RLE, compressed (text or bytes) or with a list of counts; returns its crop and the image size."""
    try:
        height, width = (int(side) for side in rle["size"])
        counts = rle["counts"].decode() if isinstance(rle["counts"], bytes) else rle["counts"]
        return decode_coco_rle({"size": [height, width], "counts": counts}, height, width), (height, width)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"masks: entry {row} is not a COCO RLE with `size` and `counts`: {one_line(error)}") from None

"""Keeps numbers that are not finite out of every fusion: a diverged network, a broken pixel, another program's arrays.

An instance with such a number in its box, score or mask is dropped. Where a semantic logit is not finite, no class can
be told: the pixel becomes void unless an instance takes it.

Shapes: R instances, C semantic channels (S stuff first), h x w pixels of the semantic logits, H x W of the output.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from detectron2.structures import Instances
from torch import Tensor

from panoptic_fusion.modeling.fusion.resize import resize_labels
from panoptic_fusion.modeling.fusion.sem_seg_logits import SemSegLogits

LIMIT = 2.0**60
"""What counts as infinite: below it, sums of logits and whole pixels of boxes are finite, too."""

PanopticSeg = tuple[Tensor, list[dict]]
"""A panoptic segmentation: map (H, W) int32, 0 = void, and its segments_info (see `PanopticFusion.forward`)."""


def fuse_finite(
    combine: Callable[[SemSegLogits, Instances, tuple[int, int] | None], PanopticSeg],
    sem_seg: SemSegLogits,
    instances: Instances,
    size: tuple[int, int] | None,
    num_stuff: int,
) -> PanopticSeg:
    """Runs a fusion rule on what is finite of its inputs; for arguments and result see `PanopticFusion.forward`.

    Inputs that are finite reach the rule as they are.

    Args:
        combine: the rule.
        sem_seg, instances, size: its arguments.
        num_stuff: the number S of stuff classes.
    """
    is_usable, is_broken = usable_instances(instances), broken_cells(sem_seg.logits)
    all_usable, some_broken = torch.stack([is_usable.all(), is_broken.any()]).tolist()  # the only read on the host
    rows = None if all_usable else is_usable.nonzero()[:, 0]
    if rows is not None:
        instances = instances[rows]
    if some_broken:
        sem_seg, where = without_broken_cells(sem_seg, is_broken, num_stuff)
    panoptic_seg, segments_info = combine(sem_seg, instances, size)
    if some_broken:
        stuff = torch.tensor([s["id"] for s in segments_info if not s["isthing"]], dtype=torch.int32)
        where = resize_labels(where.int(), size).bool() & torch.isin(panoptic_seg, stuff.to(panoptic_seg.device))
        panoptic_seg, segments_info = void_pixels(panoptic_seg, segments_info, where)
    if rows is not None:
        rows = rows.tolist()
        segments_info = [
            {**s, "instance_id": rows[s["instance_id"]]} if "instance_id" in s else s for s in segments_info
        ]
    return panoptic_seg, segments_info


def usable_instances(instances: Instances) -> Tensor:
    """Returns which of R instances have a box, a score and a mask that are finite: (R,) bool."""
    fields = [instances.pred_boxes.tensor, instances.scores]
    if instances.has("pred_mask_logits"):
        fields.append(instances.pred_mask_logits)
    is_usable = torch.ones(len(instances), dtype=torch.bool, device=instances.scores.device)
    for field in fields if len(instances) else ():
        is_usable &= field.reshape(len(instances), -1).abs().amax(dim=1) < LIMIT
    return is_usable


def broken_cells(logits: Tensor) -> Tensor:
    """Returns where a channel of logits (C, h, w) is not finite: (h, w) bool."""
    if len(logits) == 0:
        return logits.new_zeros(logits.shape[1:], dtype=torch.bool)
    lowest, highest = logits.aminmax(dim=0)  # NaN where a channel is NaN
    return ~((lowest > -LIMIT) & (highest < LIMIT))


def without_broken_cells(sem_seg: SemSegLogits, is_broken: Tensor, num_stuff: int) -> tuple[SemSegLogits, Tensor]:
    """Replaces the logits of broken cells.

    Args:
        sem_seg: logits of C channels.
        is_broken: (h, w) bool, see `broken_cells`.
        num_stuff: the number S of stuff classes.

    Returns:
        The logits with 0 in all channels of such a cell, and just above 0 in those of things, so that the semantic side
        objects to no instance.
        The pixels of `sem_seg.output_size` whose values depend on such a cell, (H, W) bool.
    """
    logits = sem_seg.logits
    neutral = torch.zeros(len(logits), 1, 1, dtype=logits.dtype, device=logits.device)
    neutral[num_stuff:] = 2.0**-10
    where = replace(sem_seg, logits=is_broken[None].float()).full()[0] > 0
    return replace(sem_seg, logits=torch.where(is_broken, neutral, logits)), where


def void_pixels(panoptic_seg: Tensor, segments_info: list[dict], where: Tensor) -> PanopticSeg:
    """Makes pixels void and counts the areas again; segments without a pixel are left out, ids are kept.

    Args:
        panoptic_seg: (H, W) int32.
        segments_info: its segments, with `id` and `area`. They are not changed.
        where: (H, W) bool.
    """
    panoptic_seg = panoptic_seg.masked_fill(where, 0)
    areas = torch.bincount(panoptic_seg.flatten(), minlength=1 + max((s["id"] for s in segments_info), default=0))
    areas = areas.tolist()
    return panoptic_seg, [{**s, "area": areas[s["id"]]} for s in segments_info if areas[s["id"]] > 0]

"""Keeps non-finite numbers out of every fusion.

They come from a diverged network, a broken pixel or arrays of another program. An instance with such a number in its
box, score or mask is dropped. A pixel with a non-finite semantic logit has no defined class, so it becomes void unless
an instance covers it.

Shapes: R is the number of instances, C the number of semantic channels (S stuff channels first), h x w the resolution
of the semantic logits, H x W the output resolution.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from detectron2.structures import Instances
from torch import Tensor

from panoptic_fusion.decisions import FINITE_LIMIT
from panoptic_fusion.modeling.fusion.label_map import LabelMap
from panoptic_fusion.modeling.fusion.resize import recount, resize_labels
from panoptic_fusion.modeling.fusion.sem_seg_logits import SemSegLogits

PanopticSeg = tuple[Tensor, list[dict]]
"""A panoptic segmentation: map (H, W) int32, 0 = void, and its segments_info (see `PanopticFusion.forward`)."""


def fuse_finite(
    combine: Callable[[SemSegLogits | LabelMap, Instances, tuple[int, int] | None], PanopticSeg],
    sem_seg: SemSegLogits | LabelMap,
    instances: Instances,
    size: tuple[int, int] | None,
    num_stuff: int,
) -> PanopticSeg:
    """Runs a fusion rule on the finite part of its inputs.

    Finite inputs are passed to the rule unchanged. The result is described in `PanopticFusion.forward`.

    Args:
        combine: fusion rule.
        sem_seg, instances, size: arguments of the rule, see `PanopticFusion.forward`.
        num_stuff: S, the number of stuff classes.
    """
    logits = torch.empty(0) if isinstance(sem_seg, LabelMap) else sem_seg.logits
    all_usable, none_broken = are_finite(instance_numbers(instances), logits)
    rows = None if all_usable else usable_instances(instances).nonzero()[:, 0]
    some_broken = not none_broken
    if rows is not None:
        instances = instances[rows]
    if some_broken:
        sem_seg, where = without_broken_cells(sem_seg, broken_cells(sem_seg.logits), num_stuff)
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


def are_finite(*tensors: Tensor) -> list[bool]:
    """Returns whether all numbers of each tensor are finite, with one copy to the CPU."""
    ranges = [end.float() for x in tensors if x.numel() for end in x.aminmax()]  # both ends are NaN if a number is NaN
    ends = iter(torch.stack(ranges).tolist() if ranges else ())
    return [not x.numel() or all([abs(next(ends)) < FINITE_LIMIT for _ in range(2)]) for x in tensors]


def instance_numbers(instances: Instances) -> Tensor:
    """Returns the numbers of the boxes, scores and masks of R instances, as (R, N) float."""
    num = len(instances)
    fields = [instances.pred_boxes.tensor, instances.scores[:, None]]
    if instances.has("pred_mask_logits") and num:
        fields.append(instances.pred_mask_logits.reshape(num, -1))
    return torch.cat(fields, dim=1)


def usable_instances(instances: Instances) -> Tensor:
    """Returns which of R instances have a finite box, score and mask, as (R,) bool."""
    return instance_numbers(instances).abs().amax(dim=1) < FINITE_LIMIT


def broken_cells(logits: Tensor) -> Tensor:
    """Returns where any channel of the logits (C, h, w) is non-finite, as (h, w) bool."""
    if len(logits) == 0:
        return logits.new_zeros(logits.shape[1:], dtype=torch.bool)
    lowest, highest = logits.aminmax(dim=0)  # NaN where a channel is NaN
    return ~((lowest > -FINITE_LIMIT) & (highest < FINITE_LIMIT))


def without_broken_cells(sem_seg: SemSegLogits, is_broken: Tensor, num_stuff: int) -> tuple[SemSegLogits, Tensor]:
    """Replaces the logits of broken cells.

    Args:
        sem_seg: logits of C channels.
        is_broken: (h, w) bool, see `broken_cells`.
        num_stuff: S, the number of stuff classes.

    Returns:
        The logits with 0 in the stuff channels of each broken cell and a value just above 0 in the thing channels, so
        that the semantic logits do not reject any instance.
        The pixels at `sem_seg.output_size` whose values depend on a broken cell, (H, W) bool.
    """
    logits = sem_seg.logits
    neutral = torch.zeros(len(logits), 1, 1, dtype=logits.dtype, device=logits.device)
    neutral[num_stuff:] = 2.0**-10
    where = replace(sem_seg, logits=is_broken[None].float()).full()[0] > 0
    return replace(sem_seg, logits=torch.where(is_broken, neutral, logits)), where


def void_pixels(panoptic_seg: Tensor, segments_info: list[dict], where: Tensor) -> PanopticSeg:
    """Makes pixels void and recomputes the areas. Segments without a pixel are dropped, and ids are kept.

    Args:
        panoptic_seg: (H, W) int32.
        segments_info: its segments, with `id` and `area`. They are not modified.
        where: (H, W) bool, the pixels that become void.
    """
    panoptic_seg = panoptic_seg.masked_fill(where, 0)
    return panoptic_seg, recount(panoptic_seg, segments_info)

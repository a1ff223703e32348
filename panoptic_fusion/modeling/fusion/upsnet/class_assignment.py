"""Conversion of UPSNet's panoptic argmax to segments, with the heuristic class rule (section 3.1) and area limit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from panoptic_fusion.decisions import is_large_stuff, is_mostly_stuff


def majority_stuff_class(counts: Tensor) -> Tensor:
    """Returns the instances that become stuff, because one stuff class labels at least half of their pixels.

    If the class of an instance is not the mode of the semantic labels of its pixels, it becomes that mode if the mode
    is a stuff class with a frequency of at least 0.5. Otherwise the instance keeps its class. In a tie of modes the
    lowest channel counts. A stuff class with half of the pixels is therefore always the mode, and the split of the rest
    among thing classes has no effect.

    As in the published code, a frequency of exactly 0.5 is enough. The paper has "larger than 0.5".

    Args:
        counts: (N, S + 1) int64, number of pixels of each instance per semantic label: S stuff classes, then any thing.

    Returns:
        (N,) int64, the stuff class, or -1 for an instance that keeps its class.
    """
    if counts.shape[1] == 1:
        return torch.full_like(counts[:, 0], -1)
    most, channel = counts[:, :-1].max(dim=1)
    return torch.where(is_mostly_stuff(most, counts.sum(1)), channel, -1)


def assign_segments(
    labels: Tensor,
    stuff: Tensor,
    *,
    instance_ids: Sequence[int],
    scores: Sequence[float],
    classes: Sequence[int],
    num_stuff: int,
    stuff_area_limit: int,
    keep_instance_classes: bool = False,
) -> tuple[Tensor, list[dict]]:
    """Converts the argmax of the panoptic head to a panoptic segmentation.

    Instances that become stuff are merged with the pixels of that stuff class. Stuff with fewer than `stuff_area_limit`
    pixels then becomes void. There is no minimum area for things, but an instance without a pixel is omitted. Ids count
    from 1, first things in the order of their channels, then stuff by ascending class.

    Args:
        labels, stuff: (H, W) int16, result of `panoptic_argmax` for N instances.
        instance_ids, scores, classes: row in the fusion's `instances`, score and thing id of the N instances.
        num_stuff: S, the number of stuff classes.
        stuff_area_limit: minimum number of pixels of a stuff segment.
        keep_instance_classes: whether every instance keeps its class, so that none becomes stuff.

    Returns:
        The panoptic map (H, W) int32 and segments_info, as described in `PanopticFusion.forward`.
    """
    num_instances = len(classes)
    pairs = labels.int() * (num_stuff + 1) + stuff
    shape = (num_stuff + num_instances + 1, num_stuff + 1)
    counts = torch.bincount(pairs.flatten(), minlength=shape[0] * shape[1]).view(shape).cpu()
    target = torch.arange(shape[0])  # the label that each label becomes
    if not keep_instance_classes:
        majority = majority_stuff_class(counts[num_stuff:-1])
        target[num_stuff:-1] = torch.where(majority < 0, target[num_stuff:-1], majority)
    areas = torch.zeros(shape[0], dtype=torch.int64).index_add_(0, target, counts.sum(1)).tolist()

    ids = [0] * shape[0]
    segments_info: list[dict] = []
    for i, (row, score, thing) in enumerate(zip(instance_ids, scores, classes, strict=True)):
        area = areas[num_stuff + i]
        if area > 0:
            ids[num_stuff + i] = len(segments_info) + 1
            segment = {"id": ids[num_stuff + i], "isthing": True, "category_id": thing}
            segments_info.append({**segment, "score": score, "instance_id": row, "area": area})
    for channel in range(num_stuff):
        if is_large_stuff(areas[channel], stuff_area_limit):
            ids[channel] = len(segments_info) + 1
            segment = {"id": ids[channel], "isthing": False, "category_id": channel, "area": areas[channel]}
            segments_info.append(segment)
    table = torch.tensor(ids, dtype=torch.int32)[target].to(labels.device)
    return table.index_select(0, labels.int().flatten()).view_as(labels), segments_info

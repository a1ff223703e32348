"""Conversion of UPSNet's panoptic argmax to segments, with the heuristic class rule (section 3.1) and area limit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from panoptic_fusion.segments import segments_of_head


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

    An instance becomes stuff if one stuff class has at least half of its pixels. The paper requires more than half, see
    `majority_stuff_class`. Instances that become stuff are merged with the pixels of that stuff class. Stuff with fewer
    than `stuff_area_limit` pixels then becomes void, as in the published code; the paper has no such limit. There is no
    minimum area for things, but an instance without a pixel is omitted. Ids count from 1, first things in the order of
    their channels, then stuff by ascending class.

    Args:
        labels, stuff: (H, W) int16, result of `panoptic_argmax` for N instances.
        instance_ids, scores, classes: row in the fusion's `instances`, score and thing id of the N instances.
        num_stuff: S, the number of stuff classes.
        stuff_area_limit: minimum number of pixels of a stuff segment.
        keep_instance_classes: whether every instance keeps its class, so that none becomes stuff.

    Returns:
        The panoptic map (H, W) int32 and segments_info, as described in `PanopticFusion.forward`.
    """
    shape = (num_stuff + len(classes) + 1, num_stuff + 1)
    pairs = labels.int() * shape[1] + stuff
    counts = torch.bincount(pairs.flatten(), minlength=shape[0] * shape[1]).view(shape).cpu()
    ids, segments_info = segments_of_head(
        counts.numpy(), rows=instance_ids, classes=classes, scores=scores, num_stuff=num_stuff,
        stuff_area_limit=stuff_area_limit, keep_instance_classes=keep_instance_classes,
    )  # fmt: skip
    table = torch.from_numpy(ids).to(labels.device)
    return table.index_select(0, labels.int().flatten()).view_as(labels), segments_info

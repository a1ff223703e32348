"""Fuses the raw outputs of an exported network, without torch."""

from __future__ import annotations

from functools import partial

from .finite import fuse_finite
from .greedy import fuse_greedily
from .instances import Instances
from .painting import PanopticSeg
from .ranking import RankingModule
from .sem_seg_logits import SemSegLogits
from .settings import FusionSettings
from .upsnet import fuse_panoptic_head


def fuse(
    sem_seg: SemSegLogits,
    instances: Instances,
    settings: FusionSettings,
    *,
    num_stuff: int,
    num_things: int,
    ranking_module: RankingModule | None = None,
) -> PanopticSeg:
    """Fuses the instances and the semantic logits of one image.

    The result equals that of the fusion module in `modeling` on torch tensors of the same values.

    Args:
        sem_seg: semantic logits; its `output_size` is the size of the result.
        instances: R instances with non-empty boxes in the output (`Instances.visible`), in the coordinates of any size.
        settings: fusion and its thresholds.
        num_stuff: S, the number of stuff classes.
        num_things: T, the number of thing classes.
        ranking_module: ranking module, for SpatialRankingFusion only.

    Returns:
        The panoptic map (H, W) int32, 0 = void, segment ids from 1. And segments_info, a list of dicts of Python
        scalars, things first: id, isthing (bool), category_id (thing id if isthing, else stuff id), area (pixels), and
        for things score (float) and instance_id (row of `instances`).
    """
    size = sem_seg.output_size
    if settings.at_input_resolution:
        sem_seg = SemSegLogits(sem_seg.logits, sem_seg.padded_size, sem_seg.image_size, sem_seg.image_size)
    if settings.name == "UPSNetFusion":
        combine = partial(fuse_panoptic_head, settings=settings, num_stuff=num_stuff)
    else:
        combine = partial(
            fuse_greedily, settings=settings, num_stuff=num_stuff, num_things=num_things, ranking_module=ranking_module
        )
    return fuse_finite(combine, sem_seg, instances.rescaled(sem_seg.output_size), size, num_stuff)

"""The four rules that paint one instance after another, in numpy; twin of the rules in `modeling/fusion`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from panoptic_fusion.data.label_space import IGNORE_LABEL
from panoptic_fusion.decisions import exceeds_score, fits, is_agreed, reaches_score
from panoptic_fusion.segments import small_regions

from .instances import Instances
from .labels import recount, resize_labels
from .mask_crops import PastedCrops
from .painting import Candidate, PanopticSeg, assemble, paint
from .ranking import RankingModule, ranking_scores
from .sem_seg_logits import SemSegLogits, Size
from .settings import FusionSettings


def fuse_greedily(
    sem_seg: SemSegLogits,
    instances: Instances,
    size: Size,
    settings: FusionSettings,
    *,
    num_stuff: int,
    num_things: int,
    ranking_module: RankingModule | None = None,
) -> PanopticSeg:
    """Paints instances in the order of the rule, each on pixels that are still free, and then stuff.

    Args:
        sem_seg: semantic logits.
        instances: R instances at `sem_seg.output_size`.
        size: size of the output.
        settings: settings of one of the four rules.
        num_stuff, num_things: S and T.
        ranking_module: ranking module of SpatialRankingFusion.
    """
    crops = PastedCrops(instances)
    order = np.argsort(-instances.scores, kind="stable")
    kept = order[reaches_score(instances.scores[order], settings.instances_confidence_thresh)].tolist()
    only_stuff = settings.stuff_channels_only and num_stuff > 0
    labels = None if only_stuff and settings.name != "MaskGuidedFusion" else sem_seg.argmax()
    order, accept = kept, partial(_accept_fitting, settings)
    if settings.name == "SeamlessFusion":
        above = exceeds_score(instances.scores, settings.instances_confidence_thresh)
        order = [row for row in kept if above[row]]
    elif settings.name == "MaskGuidedFusion":
        accept = partial(_accept_agreed, settings, labels >= num_stuff)
    elif settings.name == "SpatialRankingFusion" and len(kept) > 1:
        scores = ranking_scores(
            crops, kept, instances.classes, ranking_module, num_things=num_things, stride=settings.stride,
            image_size=sem_seg.image_size, contested_only=settings.score_over == "contested",
        )  # fmt: skip
        if settings.order_by == "product":
            scores = scores * instances.scores[kept]
        order = [kept[place] for place in np.argsort(-scores, kind="stable")]

    canvas = paint(crops, order, accept)
    if only_stuff:
        labels = sem_seg.select(slice(num_stuff)).argmax()
    # Seamless applies the area limit at the fusion resolution, the other rules at output resolution.
    segments_size = sem_seg.output_size if settings.name == "SeamlessFusion" else size
    panoptic_seg, segments_info = _add_stuff(
        resize_labels(canvas, segments_size),
        order,
        resize_labels(labels, segments_size),
        instances,
        settings,
        num_stuff,
    )
    if panoptic_seg.shape == size:
        return panoptic_seg, segments_info
    panoptic_seg = resize_labels(panoptic_seg, size)
    return panoptic_seg, recount(panoptic_seg, segments_info)


def _add_stuff(
    canvas: np.ndarray,
    order: Sequence[int],
    labels: np.ndarray,
    instances: Instances,
    settings: FusionSettings,
    num_stuff: int,
) -> PanopticSeg:
    """Converts a canvas to a panoptic segmentation with the area limit of `settings`; see `assemble`."""
    limit = settings.stuff_area_limit
    if settings.stuff_area_of == "region":
        small = small_regions(np.where((canvas == 0) & (labels < num_stuff), labels, num_stuff), num_stuff, limit)
        labels, limit = np.where(small, IGNORE_LABEL, labels), 0
    return assemble(canvas, order, labels, instances, num_stuff=num_stuff, stuff_area_limit=limit)


def _accept_fitting(settings: FusionSettings, candidate: Candidate) -> bool:
    return bool(fits(candidate.overlap, candidate.area, settings.overlap_thresh))


def _accept_agreed(settings: FusionSettings, things_mask: np.ndarray, candidate: Candidate) -> bool:
    accepted = is_agreed(
        candidate.overlap,
        candidate.area,
        np.count_nonzero(candidate.mask & things_mask[candidate.window]),
        overlap_thresh=settings.overlap_thresh,
        agreement_thresh=settings.agreement_thresh,
        things_area=np.count_nonzero(things_mask) if settings.agreement == "iou" else None,
        painted_area=np.count_nonzero(candidate.canvas) if settings.overlap == "iou" else None,
    )
    return bool(accepted)

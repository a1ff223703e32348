"""Heuristic rule of Panoptic FPN: paints by descending score, unless too much of the instance is already covered."""

from __future__ import annotations

import torch

from panoptic_fusion.decisions import fits
from panoptic_fusion.modeling.fusion.base import PANOPTIC_FUSION_REGISTRY
from panoptic_fusion.modeling.fusion.greedy import GreedyFusion, Scene
from panoptic_fusion.modeling.fusion.paint import Candidate, elementwise


@elementwise
def accept_fitting(scene: Scene, candidate: Candidate, *, overlap_thresh: float) -> torch.Tensor:
    """Returns whether at most the fraction `overlap_thresh` of a candidate is covered: a 0-d bool tensor.

    In float64, in which detectron2 computes it from Python integers: the same decision at the threshold itself.
    """
    return fits(candidate.overlap, candidate.area, overlap_thresh)


@PANOPTIC_FUSION_REGISTRY.register()
class HeuristicFusion(GreedyFusion):
    """Rule of detectron2's `combine_semantic_and_instance_outputs` on the semantic channels of this project.

    Instances with a score of at least INSTANCES_CONFIDENCE_THRESH are painted by descending score (in a tie the lower
    row first). An instance is dropped if more than OVERLAP_THRESH of its pixels are already covered. Stuff segments
    with fewer than STUFF_AREA_LIMIT pixels become void. Remaining pixels with a thing label also become void, unless
    STUFF_CHANNELS_ONLY is set.

    The map and segments_info match detectron2, with two exceptions. Things also have an `area`, and segments without a
    pixel are omitted (detectron2 lists them if OVERLAP_THRESH is 1 or STUFF_AREA_LIMIT is 0).
    """

    @elementwise
    def accept(self, scene: Scene, candidate: Candidate) -> torch.Tensor:
        """Returns whether to paint a candidate, as a 0-d bool tensor."""
        return accept_fitting(scene, candidate, overlap_thresh=self.overlap_thresh)

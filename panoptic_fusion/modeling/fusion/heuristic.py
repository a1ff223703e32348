"""The heuristic rule of Panoptic FPN: by descending score, unless too much of the instance is covered already."""

from __future__ import annotations

import torch

from panoptic_fusion.modeling.fusion.base import PANOPTIC_FUSION_REGISTRY
from panoptic_fusion.modeling.fusion.greedy import GreedyFusion, Scene
from panoptic_fusion.modeling.fusion.paint import Candidate


@PANOPTIC_FUSION_REGISTRY.register()
class HeuristicFusion(GreedyFusion):
    """The rule of detectron2's `combine_semantic_and_instance_outputs`, on the semantic channels of this project.

    Instances of a score of at least INSTANCES_CONFIDENCE_THRESH are painted by descending score (in a tie the lower row
    first). One of whose pixels more than the fraction OVERLAP_THRESH is covered already is dropped. Stuff segments of
    fewer than STUFF_AREA_LIMIT pixels and left-over thing labels become void. The map and segments_info are those of
    detectron2, but that things also have an `area`, and that segments without a pixel are left out (detectron2 lists
    them where OVERLAP_THRESH is 1 or STUFF_AREA_LIMIT is 0).
    """

    def accept(self, scene: Scene, candidate: Candidate) -> torch.Tensor:
        # In float64, in which detectron2 computes it from Python integers: the same decision at the threshold itself.
        return candidate.overlap.double() / candidate.area <= self.overlap_thresh

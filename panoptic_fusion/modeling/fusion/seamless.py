"""The rule of Seamless Scene Segmentation (section 3.5): by descending score, if at least half of the instance is still
free."""

from __future__ import annotations

from collections.abc import Sequence

from panoptic_fusion.modeling.fusion.base import PANOPTIC_FUSION_REGISTRY, PanopticSeg
from panoptic_fusion.modeling.fusion.greedy import Scene
from panoptic_fusion.modeling.fusion.heuristic import HeuristicFusion
from panoptic_fusion.modeling.fusion.resize import resize_panoptic


@PANOPTIC_FUSION_REGISTRY.register()
class SeamlessFusion(HeuristicFusion):
    """The rule of the paper, with its published constants where the configs name them.

    Instances of a score above INSTANCES_CONFIDENCE_THRESH are painted by descending score (in a tie the lower row
    first), unless more than the fraction OVERLAP_THRESH of the mask is taken already: at 0.5 an instance of which
    exactly half is free is painted. Left-over pixels take the class of the semantic head, or void if that is a thing;
    a stuff class with fewer than STUFF_AREA_LIMIT of them becomes void.

    On the thresholds' two sides this is the heuristic rule that it is "inspired by"; the paper's own part is that thing
    channels take part in the semantic argmax, so that a thing that no instance claims is void, not stuff. The authors'
    implementation makes crowd segments of such pixels, which its evaluation counts as void.
    """

    thresholds = {
        "INSTANCES_CONFIDENCE_THRESH": 0.5,
        "OVERLAP_THRESH": 0.5,
        "STUFF_AREA_LIMIT": 4096,
        "AT_INPUT_RESOLUTION": True,
    }

    def order(self, scene: Scene) -> Sequence[int]:
        above = (scene.instances.scores > self.instances_confidence_thresh).tolist()
        return [row for row in scene.kept if above[row]]

    def fuse(self, scene: Scene, order: Sequence[int], size: tuple[int, int] | None = None) -> PanopticSeg:
        """See GreedyFusion. As in the authors' implementation the area limit counts at the size at which is fused."""
        return resize_panoptic(*super().fuse(scene, order), size)

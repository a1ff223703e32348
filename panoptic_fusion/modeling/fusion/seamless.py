"""Rule of Seamless Scene Segmentation (section 3.5): paints by descending score if half of the instance is free."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from panoptic_fusion.decisions import exceeds_score
from panoptic_fusion.modeling.fusion.base import PANOPTIC_FUSION_REGISTRY, PanopticSeg
from panoptic_fusion.modeling.fusion.greedy import Scene
from panoptic_fusion.modeling.fusion.heuristic import HeuristicFusion
from panoptic_fusion.modeling.fusion.resize import resize_panoptic


def order_above(scene: Scene, confidence_thresh: float) -> list[int]:
    """Returns the rows of `scene.kept` whose scores are above `confidence_thresh`, in the same order."""
    scores = torch.tensor(scene.scores, dtype=scene.instances.scores.dtype)
    above = exceeds_score(scores, confidence_thresh).tolist()
    return [row for row in scene.kept if above[row]]


@PANOPTIC_FUSION_REGISTRY.register()
class SeamlessFusion(HeuristicFusion):
    """Fusion of the Seamless paper with its published constants.

    Instances with a score above INSTANCES_CONFIDENCE_THRESH are painted by descending score (in a tie the lower row
    first). An instance is skipped if more than OVERLAP_THRESH of its mask is already covered. At 0.5, an instance of
    which exactly half is free is painted. Remaining pixels take the class of the stuff head, or void if that is a
    thing. A stuff class with fewer than STUFF_AREA_LIMIT of them becomes void, as in the published code. The paper
    limits "the total amount of pixels of any stuff class".

    Except exactly at the thresholds, this is the heuristic rule that it is "inspired by". The paper's own contribution
    is that thing channels take part in the semantic argmax, so a thing pixel without an instance is void, not stuff.
    The published code turns such pixels into crowd segments, which its PQ counts as void and its mIoU as their class.

    Another difference from the published code: a mask contains the pixels with a probability of at least 0.5 instead of
    more than 0.5.
    """

    thresholds = {
        "INSTANCES_CONFIDENCE_THRESH": 0.5,
        "OVERLAP_THRESH": 0.5,
        "STUFF_AREA_LIMIT": 4096,
        "AT_INPUT_RESOLUTION": True,
    }

    def order(self, scene: Scene) -> Sequence[int]:
        """Returns the rows of the instances to paint, topmost first."""
        return order_above(scene, self.instances_confidence_thresh)

    def fuse(self, scene: Scene, order: Sequence[int], size: tuple[int, int] | None = None) -> PanopticSeg:
        """Fuses as `GreedyFusion`, with the area limit at the fusion resolution as in the published code."""
        return resize_panoptic(*super().fuse(scene, order), size)

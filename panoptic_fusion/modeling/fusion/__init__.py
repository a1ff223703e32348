"""Fusions: how instances and semantic segmentation become one panoptic segmentation, one file a rule."""

from .base import PANOPTIC_FUSION_REGISTRY, FusionTrainingInputs, PanopticFusion, build_panoptic_fusion
from .heuristic import HeuristicFusion
from .mask_guided import MaskGuidedFusion
from .seamless import SeamlessFusion
from .sem_seg_logits import SemSegLogits
from .spatial_ranking import SpatialRankingFusion
from .upsnet import UPSNetFusion

__all__ = [
    "PANOPTIC_FUSION_REGISTRY",
    "FusionTrainingInputs",
    "HeuristicFusion",
    "MaskGuidedFusion",
    "PanopticFusion",
    "SeamlessFusion",
    "SemSegLogits",
    "SpatialRankingFusion",
    "UPSNetFusion",
    "build_panoptic_fusion",
]

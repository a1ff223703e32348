"""Fusions: rules that combine instances and semantic segmentation into one panoptic segmentation."""

from panoptic_fusion.modeling.fusion.oanet.spatial_ranking import SpatialRankingFusion
from panoptic_fusion.modeling.fusion.tascnet.mask_guided import MaskGuidedFusion
from panoptic_fusion.modeling.fusion.upsnet.fusion import UPSNetFusion

from .base import (
    OUTPUT_REGISTRY,
    PANOPTIC_FUSION_REGISTRY,
    FusionTrainingInputs,
    PanopticFusion,
    build_panoptic_fusion,
    fill_in_thresholds,
)
from .heuristic import HeuristicFusion
from .seamless import SeamlessFusion
from .sem_seg_logits import SemSegLogits

__all__ = [
    "OUTPUT_REGISTRY",
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
    "fill_in_thresholds",
]

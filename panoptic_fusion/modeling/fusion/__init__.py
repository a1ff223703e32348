"""Fusions: how instances and semantic segmentation become one panoptic segmentation, one file a rule."""

from .base import PANOPTIC_FUSION_REGISTRY, FusionTrainingInputs, PanopticFusion, build_panoptic_fusion
from .heuristic import HeuristicFusion
from .sem_seg_logits import SemSegLogits

__all__ = [
    "PANOPTIC_FUSION_REGISTRY",
    "FusionTrainingInputs",
    "HeuristicFusion",
    "PanopticFusion",
    "SemSegLogits",
    "build_panoptic_fusion",
]

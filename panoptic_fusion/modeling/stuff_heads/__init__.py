"""Stuff heads, which predict semantic logits. Each has its own file and is in detectron2's SEM_SEG_HEADS_REGISTRY."""

from .base import StuffHead, semantic_loss
from .deformable import DeformableSemSegHead
from .minidl import MiniDLSemSegHead
from .oanet import OANetSemSegHead
from .panoptic_fpn import PanopticFPNHead
from .tasc import TASCSemSegHead

__all__ = [
    "DeformableSemSegHead",
    "MiniDLSemSegHead",
    "OANetSemSegHead",
    "PanopticFPNHead",
    "StuffHead",
    "TASCSemSegHead",
    "semantic_loss",
]

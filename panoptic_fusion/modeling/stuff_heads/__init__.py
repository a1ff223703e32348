"""Stuff heads: how every pixel gets semantic logits. One file a head; all in detectron2's SEM_SEG_HEADS_REGISTRY."""

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

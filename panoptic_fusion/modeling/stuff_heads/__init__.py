"""Stuff heads: how every pixel gets semantic logits. One file a head; all in detectron2's SEM_SEG_HEADS_REGISTRY."""

from .base import StuffHead, semantic_loss
from .minidl import MiniDLSemSegHead
from .panoptic_fpn import PanopticFPNHead

__all__ = ["MiniDLSemSegHead", "PanopticFPNHead", "StuffHead", "semantic_loss"]

"""Instances: what the project adds to detectron2's RPN and RoI heads."""

from .roi_heads import PanopticROIHeads

__all__ = ["PanopticROIHeads"]

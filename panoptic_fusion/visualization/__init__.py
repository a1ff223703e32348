"""Visualization of panoptic segmentations."""

from .draw import draw_comparison, draw_panoptic, ground_truth_panoptic

__all__ = ["draw_comparison", "draw_panoptic", "ground_truth_panoptic"]

"""Visualization of panoptic segmentations."""

from .draw import draw_comparison, draw_panoptic, ground_truth_panoptic
from .tracks import ThingTracks
from .video import VideoFile

__all__ = ["ThingTracks", "VideoFile", "draw_comparison", "draw_panoptic", "ground_truth_panoptic"]

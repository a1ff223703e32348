"""Visualization of panoptic segmentations."""

from .draw import draw_comparison, draw_panoptic, ground_truth_panoptic
from .picture_file import write_picture
from .tracks import ThingTracks
from .video import VideoFile

__all__ = ["ThingTracks", "VideoFile", "draw_comparison", "draw_panoptic", "ground_truth_panoptic", "write_picture"]

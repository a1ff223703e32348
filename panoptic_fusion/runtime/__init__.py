"""Runs exported models with onnxruntime and numpy, without torch and detectron2.

The fusions are written again in numpy. Their accept decisions are the functions of `panoptic_fusion.decisions`, which
the torch modules use as well. Tests compare both on thousands of random scenes. The maps are equal to the last pixel.
"""

from .predictor import OnnxPredictor

__all__ = ["OnnxPredictor"]

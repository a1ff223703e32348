"""Runs exported models with onnxruntime and numpy, without torch and detectron2."""

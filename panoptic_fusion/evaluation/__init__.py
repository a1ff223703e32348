"""Evaluation of panoptic segmentation: metrics, detectron2 evaluators and files for submission servers."""

from .evaluator import PanopticQualityEvaluator
from .instances import InstancesEvaluator
from .panoptic_quality import PanopticQuality
from .selection import build_evaluators, check_evaluators, only_needed_outputs
from .semantic import SemanticEvaluator
from .submission import SubmissionWriter, write_panoptic_png
from .unchanged import UnchangedOutputs

__all__ = [
    "InstancesEvaluator",
    "PanopticQuality",
    "PanopticQualityEvaluator",
    "SemanticEvaluator",
    "SubmissionWriter",
    "UnchangedOutputs",
    "build_evaluators",
    "check_evaluators",
    "only_needed_outputs",
    "write_panoptic_png",
]

"""Evaluation of panoptic segmentation: metrics, detectron2 evaluators and files for submission servers."""

from .copied_outputs import CopiedOutputs
from .evaluator import PanopticQualityEvaluator
from .instances import InstancesEvaluator
from .panoptic_quality import PanopticQuality
from .selection import build_evaluators, check_evaluators, restrict_outputs
from .semantic import SemanticEvaluator
from .submission import SubmissionWriter, write_panoptic_png

__all__ = [
    "InstancesEvaluator",
    "PanopticQuality",
    "PanopticQualityEvaluator",
    "SemanticEvaluator",
    "SubmissionWriter",
    "CopiedOutputs",
    "build_evaluators",
    "check_evaluators",
    "restrict_outputs",
    "write_panoptic_png",
]

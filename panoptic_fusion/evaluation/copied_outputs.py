"""Wrapper that protects a model's outputs from evaluators that modify them in place."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.evaluation import DatasetEvaluator


class CopiedOutputs(DatasetEvaluator):
    """Wrapper that passes copies of `panoptic_seg` to an evaluator.

    detectron2's `COCOPanopticEvaluator` removes `isthing` from the model's segments_info and rewrites `category_id`, so
    any evaluator or visualization that runs after it reads wrong classes.
    """

    def __init__(self, evaluator: DatasetEvaluator):
        """Initializes the wrapper.

        Args:
            evaluator: evaluator that receives the copies; its results are returned unchanged.

        """
        self._evaluator = evaluator

    def reset(self) -> None:
        """Resets the wrapped evaluator."""
        self._evaluator.reset()

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Passes the inputs and copies of the outputs to the wrapped evaluator."""
        copies = [
            {key: copy.deepcopy(value) if key == "panoptic_seg" else value for key, value in output.items()}
            for output in outputs
        ]
        self._evaluator.process(inputs, copies)

    def evaluate(self) -> Any:
        """Returns the results of the wrapped evaluator."""
        return self._evaluator.evaluate()

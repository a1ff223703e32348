"""The old name of `copied_outputs`, for code that imports it."""

from .copied_outputs import CopiedOutputs as UnchangedOutputs

__all__ = ["UnchangedOutputs"]

"""Saving, loading and converting checkpoints."""

from .checkpointer import (
    AtomicCheckpointer,
    check_finite_weights,
    check_weights_file,
    last_checkpoint,
    named_checkpoint,
)

__all__ = ["AtomicCheckpointer", "check_finite_weights", "check_weights_file", "last_checkpoint", "named_checkpoint"]

"""Saving and loading of checkpoints."""

from .checkpointer import AtomicCheckpointer, last_checkpoint

__all__ = ["AtomicCheckpointer", "last_checkpoint"]

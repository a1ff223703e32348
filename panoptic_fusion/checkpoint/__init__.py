"""Saving and loading of checkpoints."""

from .checkpointer import AtomicCheckpointer

__all__ = ["AtomicCheckpointer"]

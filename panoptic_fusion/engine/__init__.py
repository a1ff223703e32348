"""Training: the trainer behind train_net.py and its hooks."""

from .trainer import PanopticTrainer

__all__ = ["PanopticTrainer"]

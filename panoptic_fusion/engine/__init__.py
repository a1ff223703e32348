"""Training: the trainer of `panoptic-fusion train`, its hooks, and what is checked before it starts."""

from .trainer import PanopticTrainer

__all__ = ["PanopticTrainer"]

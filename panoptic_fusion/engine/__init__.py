"""Training: the trainer of `panoptic-fusion train`, its hooks, and the checks before it starts."""

from .trainer import PanopticTrainer

__all__ = ["PanopticTrainer"]

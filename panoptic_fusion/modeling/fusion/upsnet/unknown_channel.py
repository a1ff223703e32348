"""UPSNet's unknown channel (section 3.1, "Unknown Prediction"): void is cheaper than a wrong guess.

A pixel whose instance was missed would go to another class: a false negative of its own class and a false positive of
the other. The unknown channel lets the panoptic head leave such a pixel void. Its logit is

    Z_unknown = max over the thing classes of X_thing - max over the instances of X_mask

where X_mask of an instance is X_thing of its class inside of its box and 0 outside. Where the semantic side sees a
thing that no instance stands for, the first maximum is larger than the second. The zeros outside of boxes take part:
the second maximum is at least 0 wherever some box does not cover the pixel. Without any instance it is 0.

In training, 30 % of the ground-truth instances are left out of the head, and their pixels are to become unknown
(`upsnet_training.panoptic_targets`).
"""

from __future__ import annotations

import torch
from torch import Tensor


def unknown_logits(highest_thing: Tensor, highest_x_mask: Tensor) -> Tensor:
    """Z_unknown.

    Args:
        highest_thing: maximum of X_thing over the thing classes, any shape.
        highest_x_mask: maximum of X_mask over the instances, of the same shape. It starts from `x_mask_outside`.
    """
    return highest_thing - highest_x_mask


def x_mask_outside(is_outside: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """What the instances have for X_mask where they do not reach: 0 where `is_outside`, else -inf (no such instance).

    Args:
        is_outside: bool, whether a pixel is outside of an instance's box, or in an image without instances.
    """
    zeros = torch.zeros(is_outside.shape, dtype=dtype, device=is_outside.device)
    return zeros.masked_fill_(~is_outside, -torch.inf)


def draw_known(num_instances: int, unknown_fraction: float, generator: torch.Generator | None = None) -> Tensor:
    """Which ground-truth instances of an image stay in the head, in random order: (K,) int64 rows, on the CPU.

    K = max(int((1 - unknown_fraction) * num_instances), 1), as in the authors' implementation: a single instance is
    never left out. There the order is random too, and with it which of two overlapping masks is on top.

    Args:
        num_instances: R.
        unknown_fraction: in [0, 1); the paper's 0.3.
        generator: of the random numbers; None: torch's.
    """
    known = max(int((1 - unknown_fraction) * num_instances), 1)
    return torch.randperm(num_instances, generator=generator)[:known]

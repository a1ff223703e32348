"""UPSNet's unknown channel (section 3.1, "Unknown Prediction"), because void costs less than a wrong prediction.

A pixel of a missed instance would be assigned to another class, which makes it a false negative of its own class and a
false positive of the other. The unknown channel lets the panoptic head leave such a pixel void. Its logit is

    Z_unknown = max over the thing classes of X_thing - max over the instances of X_mask

where X_mask of an instance is X_thing of its class inside its box and 0 outside. Where the semantic logits indicate a
thing without an instance, the first maximum is larger than the second. The zeros outside boxes are included: the second
maximum is at least 0 wherever some box does not contain the pixel. Without instances it is 0.

In training, 30% of the ground-truth instances are excluded from the head, and their pixels become unknown
(`training.panoptic_targets`).
"""

from __future__ import annotations

import torch
from torch import Tensor


def unknown_logits(highest_thing: Tensor, highest_x_mask: Tensor) -> Tensor:
    """Returns Z_unknown.

    Args:
        highest_thing: maximum of X_thing over the thing classes, of any shape.
        highest_x_mask: maximum of X_mask over the instances, of the same shape. It starts from `x_mask_fill_value`.
    """
    return highest_thing - highest_x_mask


def x_mask_fill_value(is_outside: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Returns the initial maximum of X_mask: 0 where `is_outside`, else -inf (every box contains the pixel).

    Args:
        is_outside: bool, whether a pixel is outside some instance's box, or in an image without instances.
    """
    zeros = torch.zeros(is_outside.shape, dtype=dtype, device=is_outside.device)
    return zeros.masked_fill_(~is_outside, -torch.inf)


def sample_known_instances(
    num_instances: int, unknown_fraction: float, generator: torch.Generator | None = None
) -> Tensor:
    """Draws the ground-truth instances of an image that stay in the head, (K,) int64 rows in random order on the CPU.

    K = max(int((1 - unknown_fraction) * num_instances), 1), as in the published code, so a single instance is never
    excluded. The order is random as in the published code, and it decides which of two overlapping masks is on top.

    Args:
        num_instances: number of ground-truth instances of the image.
        unknown_fraction: fraction of excluded instances in [0, 1), 0.3 in the paper.
        generator: random number generator. None means torch's default.
    """
    known = max(int((1 - unknown_fraction) * num_instances), 1)
    return torch.randperm(num_instances, generator=generator)[:known]

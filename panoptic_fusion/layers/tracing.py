"""Helpers for code that torch.jit.trace must record for inputs of any size."""

import torch
from torch import Tensor


def at_most(length: int | Tensor, limit: int) -> int | Tensor:
    """Returns min(length, limit).

    Args:
        length: an int, or the 0-d int64 tensor that an entry of `x.shape` is while tracing. The built-in `min` would
            record the length of the example input as a constant.
        limit: the largest result.
    """
    return torch.clamp(length, max=limit) if isinstance(length, Tensor) else min(length, limit)

"""Finds NaN and infinity in the content of a checkpoint."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


def non_finite_tensors(content: Any) -> list[str]:
    """Returns the names of the floating-point tensors that contain NaN or infinity.

    Args:
        content: tensors and arrays, in nested dicts and lists of any depth. Everything else is ignored. Names are the
            keys joined by dots. GPU tensors are checked on the GPU, with a single transfer to the CPU for all of them.
    """
    named = [(name, tensor) for name, tensor in _tensors(content) if tensor.is_floating_point() and tensor.numel()]
    if not named:
        return []
    device = named[0][1].device
    finite = torch.stack([tensor.isfinite().all().to(device, non_blocking=True) for _, tensor in named]).tolist()
    return [name for (name, _), is_finite in zip(named, finite, strict=True) if not is_finite]


def _tensors(content: Any, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(content, torch.Tensor):
        yield prefix, content.detach()
    elif isinstance(content, np.ndarray) and content.dtype.kind == "f":
        yield prefix, torch.from_numpy(content)
    elif isinstance(content, dict | list | tuple):
        items = content.items() if isinstance(content, dict) else enumerate(content)
        for key, value in items:
            yield from _tensors(value, f"{prefix}.{key}" if prefix else str(key))

"""Finds numbers that are not finite in what a checkpoint holds."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


def non_finite_tensors(content: Any) -> list[str]:
    """Returns the names of the floating tensors that hold NaN or infinity.

    Args:
        content: tensors and arrays, in dicts and lists of any depth. Everything else is ignored. A name joins the keys
            with dots. Tensors on a GPU are checked there, with one read on the host for all of them.
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

"""Counts kernel launches and blocking copies of code for a GPU, on a machine without one.

Inside a `LaunchCounter`, tensors on `DEVICE` keep their values in CPU memory. Operators on them run on the CPU and are
counted as for a GPU:

- launches: operators that compute or copy on the device. Views and empty tensors launch nothing. An operator that
  launches several kernels counts once.
- reads: the CPU waits for values of the device: `item`, `tolist`, `cpu`, `bool`, `torch.equal`, and operators whose
  output size depends on values (`nonzero`, a boolean mask as an index, `torchvision.ops.nms`).
- hidden reads: `bincount`, which reads its largest value, and copies from pageable CPU memory to the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

DEVICE = "meta"
"""Name of the simulated device, a type that needs no driver. Real meta tensors cannot be used inside the counter."""

NO_KERNEL = {
    "empty",
    "empty_like",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
    "resize_",
    "lift_fresh",
    "_unsafe_view",
}
SIZE_FROM_VALUES = {"nonzero", "masked_select", "nms", "unique_consecutive", "_unique2", "equal", "is_nonzero"}


class DeviceTensor(torch.Tensor):
    """Tensor that says it is on the simulated device. Its values are in `values`, a CPU tensor."""

    values: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> DeviceTensor:
        result = torch.Tensor._make_wrapper_subclass(
            cls, values.size(), strides=values.stride(), storage_offset=values.storage_offset(), dtype=values.dtype,
            device=DEVICE,
        )  # fmt: skip
        result.values = values
        return result

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func} on the simulated device outside of a LaunchCounter")

    def tolist(self) -> list:
        """Copies the values to the CPU and returns them as a list."""
        return self.cpu().tolist()

    def new_tensor(self, data: Any, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Copies values from the CPU to the device."""
        return torch.tensor(data, dtype=dtype or self.dtype).to(DEVICE)


@dataclass
class Counts:
    """Numbers of launches, reads and hidden reads; see the module."""

    launches: int = 0
    reads: int = 0
    hidden_reads: int = 0

    @property
    def all_reads(self) -> int:
        """Number of reads and hidden reads."""
        return self.reads + self.hidden_reads

    def __sub__(self, other: Counts) -> Counts:
        return Counts(*(a - b for a, b in zip(astuple(self), astuple(other), strict=True)))


class LaunchCounter(TorchDispatchMode):
    """Runs operators of the simulated device on the CPU and counts them.

    Attributes:
        counts: the counts so far.
        is_paused: whether operators run without being counted.
    """

    def __init__(self):
        super().__init__()
        self.counts = Counts()
        self.is_paused = False

    def __enter__(self):
        build = torch.tensor

        def tensor(data: Any, *, device: Any = None, **kwargs: Any) -> torch.Tensor:
            """Builds a tensor on the CPU and copies it, where torch would drop the values of a meta tensor."""
            result = build(data, **kwargs)
            return result if device is None else result.to(device)

        self._patch = mock.patch.object(torch, "tensor", tensor)
        self._patch.start()
        return super().__enter__()

    def __exit__(self, *error):
        self._patch.stop()
        return super().__exit__(*error)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Runs a block without counting."""
        self.is_paused = True
        yield
        self.is_paused = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        wrappers: dict[int, DeviceTensor] = {}

        def unwrap(x: Any) -> Any:
            if isinstance(x, DeviceTensor):
                wrappers[id(x.values)] = x
                return x.values
            return x

        plain = tree_map(unwrap, args), tree_map(unwrap, kwargs)
        target = kwargs.get("device")
        to_device = target is not None and torch.device(target).type == DEVICE
        if to_device:
            plain[1]["device"] = "cpu"
        is_on_device = bool(wrappers) or to_device
        to_cpu = bool(wrappers) and target is not None and not to_device
        if is_on_device and not self.is_paused:
            self._count(func, args, from_cpu=not wrappers, to_cpu=to_cpu)
        result = func(*plain[0], **plain[1])
        if not is_on_device:
            return result
        if to_cpu:
            return result.clone() if any(result is x for x in plain[0]) else result

        def wrap(x: Any) -> Any:
            if not isinstance(x, torch.Tensor):
                return x
            return wrappers[id(x)] if id(x) in wrappers else DeviceTensor(x)

        return tree_map(wrap, result)

    def _count(self, func, args: tuple, from_cpu: bool, to_cpu: bool) -> None:
        name, counts = func._schema.name.split("::")[1], self.counts
        is_upload = name == "_to_copy" and from_cpu or name == "copy_" and not isinstance(args[1], DeviceTensor)
        if to_cpu or name == "_local_scalar_dense":
            counts.reads += 1
        elif is_upload:
            counts.hidden_reads += 1
        elif not func.is_view and name not in NO_KERNEL:
            counts.launches += 1
            counts.reads += name in SIZE_FROM_VALUES
            counts.hidden_reads += name == "bincount"
            for index in args[1] if name.startswith("index") and isinstance(args[1], list | tuple) else ():
                counts.reads += index is not None and index.dtype in (torch.bool, torch.uint8)
                counts.hidden_reads += index is not None and not isinstance(index, DeviceTensor)


def to_device(x: torch.Tensor) -> torch.Tensor:
    """Returns a CPU tensor on the simulated device, uncounted."""
    return DeviceTensor(x)

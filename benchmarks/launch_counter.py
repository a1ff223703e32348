"""Counts kernel launches and blocking copies of code for a GPU, on a machine without one.

Inside a `LaunchCounter`, which is a `SimulatedDevice`, operators on the device are counted as for a GPU:

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

import torch
from simulated_device import DeviceTensor, SimulatedDevice

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


class LaunchCounter(SimulatedDevice):
    """Counts the operators of the simulated device.

    Attributes:
        counts: the counts so far.
        is_paused: whether operators run without being counted.
    """

    def __init__(self):
        super().__init__()
        self.counts = Counts()
        self.is_paused = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Runs a block without counting."""
        self.is_paused = True
        yield
        self.is_paused = False

    def observe(self, func, args: tuple, *, from_cpu: bool, to_cpu: bool) -> None:
        """Counts an operator."""
        if self.is_paused:
            return
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

"""A device that is simulated on the CPU and refuses what CUDA refuses.

Inside a `SimulatedDevice`, tensors on `DEVICE` keep their values in CPU memory, and operators on them run on the CPU.
An operator that gets tensors of both devices raises, except where CUDA allows it: copies, CPU tensors without a
dimension, and CPU tensors as indices. What needs the values on the CPU (`numpy`, numba, OpenCV) fails without `cpu`.
"""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = "meta"
"""Name of the simulated device, a type that needs no driver. Real meta tensors cannot be used inside the mode."""

COPIES = {"copy_", "_to_copy", "_copy_from"}
NO_CPU_SCALARS = {"gather", "index_select", "scatter", "scatter_", "scatter_add", "scatter_add_"}


class DeviceTensor(torch.Tensor):
    """Tensor that says it is on the simulated device. Its values are in `cpu_values`."""

    cpu_values: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> DeviceTensor:
        result = torch.Tensor._make_wrapper_subclass(
            cls, values.size(), strides=values.stride(), storage_offset=values.storage_offset(), dtype=values.dtype,
            device=DEVICE,
        )  # fmt: skip
        result.cpu_values = values
        return result

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func} on the simulated device outside of a SimulatedDevice")

    def tolist(self) -> list:
        """Copies the values to the CPU and returns them as a list."""
        return self.cpu().tolist()

    def new_tensor(self, data: Any, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Copies values from the CPU to the device."""
        return torch.tensor(data, dtype=dtype or self.dtype).to(DEVICE)


class SimulatedDevice(TorchDispatchMode):
    """Runs operators of the simulated device on the CPU; raises RuntimeError if one gets tensors of both devices."""

    def __enter__(self):
        build, autocast = torch.tensor, torch.autocast

        def tensor(data: Any, *, device: Any = None, **kwargs: Any) -> torch.Tensor:
            """Builds a tensor on the CPU and copies it, where torch would drop the values of a meta tensor."""
            result = build(data, **kwargs)
            return result if device is None else result.to(device)

        def as_tensor(data: Any, dtype: torch.dtype | None = None, device: Any = None) -> torch.Tensor:
            """Like `tensor`; shares the memory of arrays, and returns a tensor that fits as it is."""
            if not isinstance(data, torch.Tensor):
                data = torch.from_numpy(data) if isinstance(data, np.ndarray) else build(data)
            return data.to(device=device or data.device, dtype=dtype or data.dtype)

        def cpu_autocast(device_type: str, *args: Any, **kwargs: Any) -> torch.autocast:
            return autocast("cpu" if device_type == DEVICE else device_type, *args, **kwargs)

        patches = {"tensor": tensor, "as_tensor": as_tensor, "autocast": cpu_autocast}
        self._patch = mock.patch.multiple(torch, **patches)
        self._patch.start()
        return super().__enter__()

    def __exit__(self, *error):
        self._patch.stop()
        return super().__exit__(*error)

    def observe(self, func, args: tuple, *, from_cpu: bool, to_cpu: bool) -> None:
        """Is called before each operator of the device.

        Args:
            func: operator.
            args: its arguments.
            from_cpu: whether none of them is on the device yet.
            to_cpu: whether the result is on the CPU.
        """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        _refuse_mixtures(func, args, kwargs)
        wrappers: dict[int, DeviceTensor] = {}

        def unwrap(x: Any) -> Any:
            if isinstance(x, DeviceTensor):
                wrappers[id(x.cpu_values)] = x
                return x.cpu_values
            return x

        plain = tree_map(unwrap, args), tree_map(unwrap, kwargs)
        target = kwargs.get("device")
        to_device = target is not None and torch.device(target).type == DEVICE
        if to_device:
            plain[1]["device"] = "cpu"
        is_on_device = bool(wrappers) or to_device
        to_cpu = bool(wrappers) and target is not None and not to_device
        into_cpu = func._schema.name == "aten::copy_" and not isinstance(args[0], DeviceTensor)
        if is_on_device:
            self.observe(func, args, from_cpu=not wrappers, to_cpu=to_cpu or into_cpu)
        result = func(*plain[0], **plain[1])
        if not is_on_device or into_cpu:
            return result
        if to_cpu:
            return result.clone() if any(result is x for x in plain[0]) else result
        if torch.Tag.inplace_view in func.tags:
            return _with_new_shape(func, args, kwargs)

        def wrap(x: Any) -> Any:
            if not isinstance(x, torch.Tensor):
                return x
            return wrappers[id(x)] if id(x) in wrappers else DeviceTensor(x)

        return tree_map(wrap, result)


def to_device(x: torch.Tensor) -> torch.Tensor:
    """Returns a CPU tensor on the simulated device, unobserved."""
    return DeviceTensor(x)


def _refuse_mixtures(func, args: tuple, kwargs: dict[str, Any]) -> None:
    """Raises RuntimeError for what CUDA refuses as "Expected all tensors to be on the same device"."""
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    on_cpu = [x for x in tensors if not isinstance(x, DeviceTensor)]
    name = func._schema.name.split("::")[1]
    if len(on_cpu) in (0, len(tensors)) or name in COPIES:
        return
    if "index" in name and isinstance(args[1], list | tuple):  # x[indices] and x[indices] = values
        allowed = isinstance(args[0], DeviceTensor) and (
            len(args) < 3 or isinstance(args[2], DeviceTensor) or args[2].dim() == 0
        )
    else:
        lists = any(isinstance(x, torch.Tensor) for arg in args if isinstance(arg, list | tuple) for x in arg)
        allowed = all(x.dim() == 0 for x in on_cpu) and not lists and name not in NO_CPU_SCALARS
    if not allowed:
        shapes = ", ".join(f"{'device' if isinstance(x, DeviceTensor) else 'cpu'} {tuple(x.shape)}" for x in tensors)
        raise RuntimeError(f"{func}: tensors of two devices: {shapes}")


def _with_new_shape(func, args: tuple, kwargs: dict[str, Any]) -> torch.Tensor:
    """Gives the first argument, whose values have their new shape already, the same shape (`unsqueeze_`)."""
    before = torch._C._meta_in_tls_dispatch_include()
    torch._C._set_meta_in_tls_dispatch_include(True)
    try:
        with torch._C._DisableTorchDispatch():
            func(*args, **kwargs)
    finally:
        torch._C._set_meta_in_tls_dispatch_include(before)
    return args[0]

"""Counts what operators do, while code runs inside these contexts."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class CountReads(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.number += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


class CountKernels(TorchDispatchMode):
    """Operators that compute or copy something: no views, no empty tensors."""

    def __init__(self):
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.number += not func.is_view and "empty" not in func._schema.name
        return func(*args, **(kwargs or {}))


class CountWholeMaps(TorchDispatchMode):
    """Operations that compute something from a whole map."""

    def __init__(self, size: tuple[int, int]):
        super().__init__()
        self.size, self.number = size, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        of_a_map = any(isinstance(a, torch.Tensor) and tuple(a.shape) == self.size for a in args)
        self.number += of_a_map and not func.is_view
        return func(*args, **(kwargs or {}))


class LargestTensor(TorchDispatchMode):
    """The largest number of elements of any tensor that an operator returns; without those of views, if so asked."""

    def __init__(self, views: bool = True):
        super().__init__()
        self.views, self.numel = views, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, tuple | list) else [result]:
            if isinstance(x, torch.Tensor) and (self.views or x._base is None and not func.is_view):
                self.numel = max(self.numel, x.numel())
        return result

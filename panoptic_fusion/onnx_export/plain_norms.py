"""In-place activated batch norm as a plain batch norm and an activation, whose scale is a constant of the graph."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from panoptic_fusion.layers import InPlaceABN
from panoptic_fusion.layers.activated_norm import ActivatedBatchNorm


class PlainABN(ActivatedBatchNorm):
    """Batch norm and LeakyReLU with the results of a trained InPlaceABN, for inputs of any shape (N, C, ...)."""

    def __init__(self, norm: InPlaceABN):
        """Copies the parameters and statistics of `norm`; its scale is |weight| + eps."""
        super().__init__(norm.num_features, eps=norm.eps)
        self.with_activation(norm.activation)
        if norm.activation != "identity":
            self.slope = norm.slope
        with torch.no_grad():
            self.weight.copy_(norm.weight.abs() + norm.eps)
            for name in ("bias", "running_mean", "running_var"):
                getattr(self, name).copy_(getattr(norm, name))
        self.eval()

    def _check_input_dim(self, input: Tensor) -> None:
        pass


@contextmanager
def plain_norms(network: nn.Module) -> Iterator[None]:
    """Replaces every InPlaceABN of a network by `PlainABN` inside the context."""
    found = [(name, module) for name, module in network.named_modules() if isinstance(module, InPlaceABN)]
    try:
        for name, norm in found:
            _set_submodule(network, name, PlainABN(norm))
        yield
    finally:
        for name, norm in found:
            _set_submodule(network, name, norm)


def _set_submodule(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    network.get_submodule(parent).register_module(child, module)

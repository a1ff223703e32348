"""What the converters of published checkpoints share: renaming all tensors of a file, or none."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from panoptic_fusion.errors import UserError

DEPTHS = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Entry:
    """A tensor of a published layout: its name and shape there, its name here and what is done to it."""

    theirs: str
    shape: Shape
    ours: str
    convert: Callable[[Tensor], Tensor] = lambda tensor: tensor


def only_tensors(values: Mapping[str, Any], path: str) -> dict[str, Tensor]:
    """Named values as tensors, without the `num_batches_tracked` of batch norms: inference has no use for it.

    Raises:
        UserError: one is no tensor.
    """
    for name, value in values.items():
        if not isinstance(value, Tensor):
            raise UserError(f"{path}: {name} is a {type(value).__name__}, not a tensor")
    return {name: value for name, value in values.items() if not name.endswith(".num_batches_tracked")}


def renamed(tensors: Mapping[str, Tensor], entries: Iterable[Entry], path: str) -> dict[str, Tensor]:
    """The tensors by our names: those of `entries`, neither more nor fewer.

    Raises:
        UserError: a tensor is missing, left over or misshaped; the message names it.
    """
    converted, left = {}, dict(tensors)
    for entry in entries:
        tensor = left.pop(entry.theirs, None)
        if tensor is None:
            raise UserError(f"{path}: the tensor {entry.theirs} is missing")
        if tuple(tensor.shape) != entry.shape:
            raise UserError(f"{path}: {entry.theirs} is {tuple(tensor.shape)}; it must be {entry.shape}")
        converted[entry.ours] = entry.convert(tensor).clone()
    if left:
        raise UserError(f"{path}: {len(left)} tensors are left over, the first is {next(iter(left))}")
    return converted


def num_rows(tensors: Mapping[str, Tensor], name: str, dims: int, path: str) -> int:
    """The length of the first dimension of a tensor with `dims` dimensions. Raises UserError as `renamed`."""
    if name not in tensors:
        raise UserError(f"{path}: the tensor {name} is missing")
    if tensors[name].dim() != dims:
        raise UserError(f"{path}: {name} is {tuple(tensors[name].shape)}; it must have {dims} dimensions")
    return tensors[name].shape[0]


def count(tensors: Mapping[str, Tensor], pattern: str, first: int = 0) -> int:
    """How many parts there are by the highest number in the names that match `pattern`, which has one group.

    Numbers start at `first`. 0 if no name matches.
    """
    found = [int(match[1]) for match in (re.fullmatch(pattern, name) for name in tensors) if match]
    return max(found, default=first - 1) - first + 1


def check_blocks(blocks: tuple[int, ...], where: str) -> None:
    """Raises UserError unless there is a ResNet with so many blocks in its four stages."""
    if blocks not in DEPTHS:
        known = ", ".join(f"{list(b)} (ResNet-{d})" for b, d in DEPTHS.items())
        raise UserError(f"{where} has {list(blocks)} blocks; known are {known}")


def resnet_convs(blocks: tuple[int, ...]) -> Iterator[tuple[int, int, str, Shape]]:
    """The convolutions of the bottlenecks of a ResNet with `blocks` in its four stages, as

    (stage 2..5, block from 0, "conv1", "conv2", "conv3" or "shortcut", shape of the weight).
    """
    channels = 64
    for stage, num_blocks in zip((2, 3, 4, 5), blocks, strict=True):
        width, out = 64 * 2 ** (stage - 2), 256 * 2 ** (stage - 2)
        for block in range(num_blocks):
            yield stage, block, "conv1", (width, channels, 1, 1)
            yield stage, block, "conv2", (width, width, 3, 3)
            yield stage, block, "conv3", (out, width, 1, 1)
            if block == 0:
                yield stage, block, "shortcut", (out, channels, 1, 1)
            channels = out


def norm(theirs: str, ours: str, channels: int, statistics: bool = True) -> Iterator[Entry]:
    """The tensors of a norm; with the running `statistics` of a batch norm."""
    for name in ("weight", "bias", *(("running_mean", "running_var") if statistics else ())):
        yield Entry(f"{theirs}.{name}", (channels,), f"{ours}.{name}")


def with_bias(
    theirs: str, ours: str, shape: Shape, convert: Callable[[Tensor], Tensor] = lambda tensor: tensor
) -> Iterator[Entry]:
    """Weight and bias of a layer; `convert` acts on the rows of both."""
    yield Entry(f"{theirs}.weight", shape, f"{ours}.weight", convert)
    yield Entry(f"{theirs}.bias", shape[:1], f"{ours}.bias", convert)


def background_last(tensor: Tensor) -> Tensor:
    """Rows (background, things...) as (things..., background)."""
    return torch.cat([tensor[1:], tensor[:1]])

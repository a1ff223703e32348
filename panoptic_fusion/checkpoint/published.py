"""Shared utilities of the checkpoint converters, which rename either all tensors of a file or none."""

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
    """Tensor of a published layout: its published name and shape, its name in this project, and its conversion."""

    theirs: str
    shape: Shape
    ours: str
    convert: Callable[[Tensor], Tensor] = lambda tensor: tensor


def keep_tensors(values: Mapping[str, Any], path: str) -> dict[str, Tensor]:
    """Checks that named values are tensors, and drops `num_batches_tracked`, which inference does not use.

    Raises:
        UserError: a value is not a tensor.
    """
    for name, value in values.items():
        if not isinstance(value, Tensor):
            raise UserError(f"{path}: {name} is a {type(value).__name__}, not a tensor")
    return {name: value for name, value in values.items() if not name.endswith(".num_batches_tracked")}


def rename_tensors(tensors: Mapping[str, Tensor], entries: Iterable[Entry], path: str) -> dict[str, Tensor]:
    """Renames and converts the tensors as given by `entries`, which must cover exactly the tensors of the file.

    Raises:
        UserError: a tensor is missing, unexpected, has a wrong shape, is not of finite floating-point numbers or is a
            negative variance; the message names the tensor.
    """
    converted, left = {}, dict(tensors)
    for entry in entries:
        tensor = left.pop(entry.theirs, None)
        if tensor is None:
            raise UserError(f"{path}: the tensor {entry.theirs} is missing")
        if tuple(tensor.shape) != entry.shape:
            raise UserError(f"{path}: {entry.theirs} is {tuple(tensor.shape)}; it must be {entry.shape}")
        _check_numbers(tensor, f"{path}: {entry.theirs}", not_negative=entry.theirs.endswith(".running_var"))
        converted[entry.ours] = entry.convert(tensor).clone()
    if left:
        raise UserError(f"{path}: {len(left)} tensors are left over, the first is {next(iter(left))}")
    return converted


def _check_numbers(tensor: Tensor, name: str, not_negative: bool) -> None:
    """Raises UserError unless a tensor holds finite floating-point numbers, none of them negative if asked for."""
    if not tensor.is_floating_point() or tensor.layout != torch.strided:
        raise UserError(f"{name} is a tensor of {tensor.dtype}; it must hold floating-point numbers")
    if not tensor.isfinite().all():
        raise UserError(f"{name} holds NaN or infinity: the file is broken, or its training diverged")
    if not_negative and (tensor < 0).any():
        raise UserError(f"{name} holds negative numbers, which a variance cannot")


def count_stuff(tensors: Mapping[str, Tensor], name: str, num_things: int, path: str) -> int:
    """Returns how many rows of a semantic head belong to stuff, which comes first.

    Raises:
        UserError: as `rename_tensors`, and if there are no thing classes, or more of them than rows.
    """
    rows = num_rows(tensors, name, 4, path)
    if num_things < 1 or rows < num_things:
        text = (
            f"{path}: {name} has {rows} rows, which do not fit the {max(num_things, 0)} thing classes of the mask head"
        )
        raise UserError(f"{text}: it needs one row per thing class, after the stuff rows")
    return rows - num_things


def num_rows(tensors: Mapping[str, Tensor], name: str, dims: int, path: str) -> int:
    """Returns the length of the first dimension of a tensor that must have `dims` dimensions.

    Raises:
        UserError: the tensor is missing or has a different number of dimensions.
    """
    if name not in tensors:
        raise UserError(f"{path}: the tensor {name} is missing")
    if tensors[name].dim() != dims:
        raise UserError(f"{path}: {name} is {tuple(tensors[name].shape)}; it must have {dims} dimensions")
    return tensors[name].shape[0]


def count(tensors: Mapping[str, Tensor], pattern: str, first: int = 0) -> int:
    """Returns the number of parts, derived from the highest number in the names that match `pattern`.

    `pattern` has one group, the number. Numbers start at `first`. Returns 0 if no name matches.
    """
    found = [int(match[1]) for match in (re.fullmatch(pattern, name) for name in tensors) if match]
    return max(found, default=first - 1) - first + 1


def check_blocks(blocks: tuple[int, ...], where: str) -> None:
    """Checks that a ResNet with these numbers of blocks in its four stages exists.

    Raises:
        UserError: it does not.
    """
    if blocks not in DEPTHS:
        known = ", ".join(f"{list(b)} (ResNet-{d})" for b, d in DEPTHS.items())
        raise UserError(f"{where} has {list(blocks)} blocks; supported: {known}")


def resnet_convs(blocks: tuple[int, ...]) -> Iterator[tuple[int, int, str, Shape]]:
    """Yields the convolutions in the bottlenecks of a ResNet with `blocks` in its four stages.

    Each item is (stage 2..5, block from 0, "conv1", "conv2", "conv3" or "shortcut", shape of the weight).
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
    """Yields the tensors of a norm layer; `statistics` adds the running statistics of a batch norm."""
    for name in ("weight", "bias", *(("running_mean", "running_var") if statistics else ())):
        yield Entry(f"{theirs}.{name}", (channels,), f"{ours}.{name}")


def with_bias(
    theirs: str, ours: str, shape: Shape, convert: Callable[[Tensor], Tensor] = lambda tensor: tensor
) -> Iterator[Entry]:
    """Yields the weight and the bias of a layer; `convert` is applied to the rows of both."""
    yield Entry(f"{theirs}.weight", shape, f"{ours}.weight", convert)
    yield Entry(f"{theirs}.bias", shape[:1], f"{ours}.bias", convert)


def move_background_last(tensor: Tensor) -> Tensor:
    """Moves the background row to the end: (background, things...) becomes (things..., background)."""
    return torch.cat([tensor[1:], tensor[:1]])

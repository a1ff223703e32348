"""Argmax over the channels of interpolated logits on a CPU, without storing the interpolated logits.

Both implementations, in plain torch and for numba (`argmax_kernel`), compute the same sums in the same order, without
fused multiply-add, so they return identical labels.

Shapes: C is the number of channels, h x w the resolution of the logits, H x W the output resolution.
"""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from panoptic_fusion.compiled import compiled
from panoptic_fusion.modeling.fusion.argmax_kernel import SIGNATURE, argmax_rows
from panoptic_fusion.resampling import bilinear_sums

CHUNK_ELEMENTS = 2**16
"""Number of float elements that the plain implementation interpolates at once, so that they stay in the cache."""
MOSTLY_UNCLEAR = 0.3
"""Fraction of pixels with sums of their own above which interpolating all logits is faster in plain torch."""
SAMPLED_ROWS = 16
"""Number of rows of logits that show whether the rest is noise, before the work of finding the unclear pixels."""
NEAR = 2.0**-20
"""Relative distance from the highest logit within which rounding could make another channel win: 16 float32 ulps."""


@dataclass(frozen=True)
class Taps:
    """Weighted sums along one axis: output i is the sum over k of weight[k, i] * input[min(first[i] + k, length - 1)].

    Attributes:
        first: (n,) int64, index of the first input of each output.
        weight: (3, n) float32. The last rows are 0 for an output that needs fewer inputs.
        phases: p if the weights of inner outputs repeat with period p while `first` advances by one, otherwise 1.
    """

    first: Tensor
    weight: Tensor
    phases: int = 1

    def span(self) -> Tensor:
        """Returns how many inputs each output needs, (n,) int64 from 1 to 3."""
        return 1 + (self.weight[1:] != 0).long().mul(torch.tensor([[1], [2]])).amax(dim=0)


@functools.lru_cache(maxsize=32)  # the images of a dataset have few sizes
def bilinear_taps(output: int, image: int, length: int, stride: int) -> Taps:
    """Returns the sums of `bilinear_sums` along one axis; for the arguments see there."""
    first, weight = map(torch.from_numpy, bilinear_sums(output, image, length, stride))
    is_periodic = image == output and stride & (stride - 1) == 0  # otherwise the rounding of the weights differs
    return Taps(first, weight, stride if is_periodic else 1)


def interpolated_argmax(logits: Tensor, rows: Taps, columns: Taps) -> Tensor | None:
    """Returns the channel of the highest interpolated logit, (H, W) int64, the lowest channel in a tie.

    Without numba it returns None for logits that are mostly noise: computing all interpolated logits is then faster.

    Args:
        logits: (C, h, w) float32 on the CPU, finite.
        rows: sums of H outputs along the first axis of the h x w logits.
        columns: sums of W outputs along the second axis.
    """
    kernel = compiled(argmax_rows, SIGNATURE)
    if kernel is None:
        return _argmax_where_unclear(logits, rows, columns)
    height, width = len(rows.first), len(columns.first)
    labels = torch.empty(height, width, dtype=torch.int64)
    logits = logits.detach().contiguous().numpy()
    columns_as_arrays = columns.first.numpy(), columns.weight.numpy(), columns.phases

    def run(y0: int, y1: int) -> None:
        kernel(
            logits,
            rows.first[y0:y1].numpy(),
            rows.weight[:, y0:y1].contiguous().numpy(),
            *columns_as_arrays,
            labels[y0:y1].numpy(),
        )

    threads = min(torch.get_num_threads(), height)
    if threads == 1:
        run(0, height)
    else:
        edges = [height * i // threads for i in range(threads + 1)]
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(run, edges[:-1], edges[1:]))
    return labels


def _argmax_where_unclear(logits: Tensor, rows: Taps, columns: Taps) -> Tensor | None:
    """Computes `interpolated_argmax` only where the logits that a pixel depends on have different argmaxima.

    Elsewhere the pixel has their common argmax, because interpolation cannot change the order of two channels that is
    the same in all of them. Rounding can if the channels are very close, so these logits count as unclear.
    """
    height, width = logits.shape[1:]
    sample = logits[:, :: max(1, height // SAMPLED_ROWS)].argmax(dim=0)
    if (sample[:, 1:] != sample[:, :-1]).float().mean() > MOSTLY_UNCLEAR:
        return None
    clear = _clear_labels(logits)
    # One table row per span: the common label of 1, 2 or 3 consecutive logits; first along the columns, then the rows.
    by_column = torch.stack(_common_labels(clear, dim=1), dim=1).reshape(height, -1)
    by_column = by_column.index_select(1, (columns.span() - 1) * width + columns.first)
    by_row = torch.cat(_common_labels(by_column, dim=0))
    labels = by_row.index_select(0, (rows.span() - 1) * height + rows.first)
    y, x = (labels < 0).nonzero(as_tuple=True)
    if len(y) > MOSTLY_UNCLEAR * labels.numel():
        return None
    labels = labels.long()
    if len(y):
        labels[y, x] = _argmax_of_pixels(logits, rows, columns, y, x)
    return labels


def _clear_labels(logits: Tensor) -> Tensor:
    """Returns the argmax of (C, h, w) logits, (h, w) int16, or -1 if another channel is within rounding of it."""
    channels = len(logits)
    numbers = torch.arange(1, channels + 1, dtype=torch.uint8 if channels < 256 else torch.int16)[:, None, None]
    highest = logits.amax(dim=0)
    is_near = logits >= highest - highest.abs() * NEAR - torch.finfo(torch.float32).tiny
    last = (is_near * numbers).amax(dim=0).short() - 1
    first = channels - (is_near * numbers.flip(0)).amax(dim=0).short()
    return torch.where(first == last, last, -1)


def _common_labels(labels: Tensor, dim: int) -> list[Tensor]:
    """Returns the labels that 1, 2 and 3 consecutive labels have in common, -1 for none, in the shape of `labels`.

    The last label is repeated: an output at the end needs fewer labels than its span, or has weight 0 beyond the end.
    """
    result = [labels]
    for step in (1, 2):
        index = torch.arange(step, labels.shape[dim] + step).clamp(max=labels.shape[dim] - 1)
        shifted = labels.index_select(dim, index)
        result.append(torch.where(result[-1] == shifted, shifted, -1))
    return result


def _argmax_of_pixels(logits: Tensor, rows: Taps, columns: Taps, y: Tensor, x: Tensor) -> Tensor:
    """Returns the argmax of the K pixels (y, x) of the output, (K,) int64; y, x: (K,) int64."""
    channels, _, width = logits.shape
    table = logits.reshape(channels, -1).t().contiguous()
    row_taps, column_taps = int(rows.span().max()), int(columns.span().max())
    first = rows.first[y] * width + columns.first[x]
    row_weight, column_weight = (
        [taps.weight[k, index, None] for k in range(3)] for taps, index in ((rows, y), (columns, x))
    )
    labels = torch.empty_like(y)
    size = max(1, CHUNK_ELEMENTS // channels)
    for begin in range(0, len(y), size):
        chunk = slice(begin, begin + size)
        total = None
        for i in range(row_taps):
            line = None
            for j in range(column_taps):
                index = (first[chunk] + (i * width + j)).clamp_(max=len(table) - 1)
                part = table.index_select(0, index).mul_(column_weight[j][chunk])
                line = part if line is None else line.add_(part)
            line.mul_(row_weight[i][chunk])
            total = line if total is None else total.add_(line)
        labels[chunk] = total.max(dim=1).indices
    return labels

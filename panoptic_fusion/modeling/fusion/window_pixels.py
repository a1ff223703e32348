"""Pixels of many windows of an image as one flat list, which a GPU processes in one launch per operation.

Shapes: K is the number of windows, L the number of all their rows, called lines, S the number of all their lines and
columns, called sides, P the number of all their pixels, R the number of instances, M the side of a map that is resized
to a window.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Window = tuple[slice, slice]
"""Rows and columns of an image, as slices with Python ints."""


@dataclass(frozen=True)
class WindowTable:
    """Numbers about K windows that the list of their pixels is built from, computed on the CPU.

    Attributes:
        lengths: (2, K) int64, number of rows and of columns of each window.
        per_side: (3, 2, K) int64, for the rows and the columns of each window: what to add to the index in the list of
            all sides to get the coordinate, 2 * instance + (0 for columns, 1 for rows), and the instance.
        per_line: (4, K) int64, number of columns of each window, its first column and the index of this column in the
            list of all columns, both minus the index in the list of pixels that row 0 of the image would start at, and
            the layer.
        bounds: (K + 1,) int64, index in the list of the first pixel of each window, then P.
        samples: (N,) int64, the image rows and then the image columns of a grid, or (0,) if the windows are parts of
            the image itself.
    """

    lengths: np.ndarray
    per_side: np.ndarray
    per_line: np.ndarray
    bounds: np.ndarray
    samples: np.ndarray

    @classmethod
    def of(
        cls,
        windows: Sequence[Window],
        rows: Sequence[int],
        layers: Sequence[int] | None = None,
        samples: tuple[Sequence[int], Sequence[int]] = ((), ()),
    ) -> WindowTable:
        """Computes the numbers.

        Args:
            windows: K windows of the image, or of a grid that samples the image.
            rows: instance of each window, in [0, R).
            layers: layer of each window for `WindowPixels.layered_addresses`. None: the first one.
            samples: rows and columns of the image that the grid samples. Empty if the windows are parts of the image.
        """
        edges = np.array([(y.start, x.start, y.stop, x.stop) for y, x in windows], np.int64).reshape(-1, 4).T
        first, lengths = edges[:2], edges[2:] - edges[:2]
        side_start = (lengths.cumsum() - lengths.ravel()).reshape(2, -1)
        (y0, x0), (_, num_cols), instance = first, lengths, np.array(rows, np.int64)
        bounds = np.concatenate([[0], (lengths[0] * num_cols).cumsum()])
        shift = first - side_start
        shift[1] += len(samples[0])
        row_0 = bounds[:-1] - y0 * num_cols
        columns_start = side_start[1] - lengths[0].sum()
        layer = np.zeros_like(instance) if layers is None else np.array(layers, np.int64)
        return cls(
            lengths,
            np.stack([shift, 2 * instance + [[1], [0]], np.stack([instance, instance])]),
            np.stack([num_cols, x0 - row_0, columns_start - row_0, layer]),
            bounds,
            np.concatenate([np.asarray(x, np.int64) for x in samples]),
        )


@dataclass(frozen=True)
class WindowPixels:
    """Pixels of K windows, ordered by window, then by line, then by column.

    The pixels of a line are consecutive in the list and in any image. Building the list takes the same number of
    operations for any number of windows, and the CPU does not wait for a GPU, except to copy a `WindowTable` to it.

    Attributes:
        num_lines: L.
        rows: (K,) int64, instance of each window.
        instance: (S,) int64, instance of each side. The sides are the lines of all windows, then their columns.
        instance_axis: (S,) int64, 2 * instance + (0 for a column, 1 for a line).
        position: (S,) int64, the image row or image column of each side.
        window: (L,) int64, window of each line.
        grid_row: (L,) int64, row of each line in the grid, or in the image if there is no grid.
        layer: (L,) int64, layer of the window of each line.
        offsets: (2, L) int64, the first column of the line's window, and the index of this column in the list of all
            columns, both minus the index in the list of pixels of the line's first pixel.
        bounds: (K + 1,) int64, index in the list of the first pixel of each window, then P.
        line: (P,) int32, line of each pixel, in [0, L).
        place: (P,) int32, the numbers 0..P-1.
    """

    num_lines: int
    rows: Tensor
    instance: Tensor
    instance_axis: Tensor
    position: Tensor
    window: Tensor
    grid_row: Tensor
    layer: Tensor
    offsets: Tensor
    bounds: Tensor
    line: Tensor
    place: Tensor

    @classmethod
    def each(cls, tables: Sequence[WindowTable], device: torch.device) -> Iterator[WindowPixels]:
        """Yields the pixels of each table. All tables are copied to the device at once."""
        arrays = [[t.lengths, t.per_side, t.per_line, t.bounds, t.samples] for t in tables]
        values = upload([array for table in arrays for array in table], device)
        for place, table in enumerate(tables):
            yield cls._of(table, *values[5 * place : 5 * place + 5])

    @classmethod
    def _of(
        cls, table: WindowTable, lengths: Tensor, per_side: Tensor, per_line: Tensor, bounds: Tensor, samples: Tensor
    ) -> WindowPixels:
        """Lists the pixels of a table. The tensors are the arrays of the table on the device."""
        num_lines, num_sides, num_pixels = int(table.lengths[0].sum()), int(table.lengths.sum()), int(table.bounds[-1])
        side = torch.repeat_interleave(lengths.view(-1), output_size=num_sides)
        shift, instance_axis, instance = per_side.view(3, -1).index_select(1, side)
        position = torch.arange(num_sides, device=side.device).add_(shift)
        window, grid_row = side[:num_lines], position[:num_lines]
        line_length, offsets, layer = per_line.index_select(1, window).split([1, 2, 1])
        line = torch.repeat_interleave(line_length[0].int(), output_size=num_pixels)
        return cls(
            num_lines,
            per_side[2, 0],
            instance,
            instance_axis,
            samples.index_select(0, position) if len(samples) else position,
            window,
            grid_row,
            layer[0],
            torch.addcmul(offsets, grid_row, line_length, value=-1),
            bounds,
            line,
            torch.arange(num_pixels, dtype=torch.int32, device=side.device),
        )

    def of_windows(self, values: Tensor) -> Tensor:
        """Returns values of the K windows, (K,), at all of their pixels, (P,)."""
        return values.index_select(0, self.window).index_select(0, self.line)

    def of_sides(self, values: Tensor) -> tuple[Tensor, ...]:
        """Returns two values per instance and axis, (R, 2, 2) with x before y, at all sides: two tensors (S,)."""
        return values.view(-1, 2).index_select(0, self.instance_axis).unbind(1)

    def addresses(self, width: int) -> Tensor:
        """Returns the index of each pixel in a flattened image or grid of this width, (P,) int64."""
        return self._along_lines(torch.add(self.offsets[0], self.grid_row, alpha=width))

    def layered_addresses(self, size: tuple[int, int]) -> Tensor:
        """Returns the index of each pixel in flattened images or grids (layers, H, W) of `size` (H, W), (P,) int64."""
        first = torch.add(self.offsets[0], self.grid_row, alpha=size[1])
        return self._along_lines(first.add_(self.layer, alpha=size[0] * size[1]))

    def _along_lines(self, first: Tensor) -> Tensor:
        """Returns numbers that increase by 1 from pixel to pixel of a line, (P,) int64.

        Args:
            first: (L,) int64, the number of the first pixel of each line minus its index in the list.
        """
        return first.index_select(0, self.line).add_(self.place)

    def read(self, images: Tensor, index: Tensor | None = None) -> Tensor:
        """Returns the values of images (N, H, W) at all pixels, (P,).

        Args:
            images: a tensor, or `CroppedMasks`, which have an index per pixel instead of addresses.
            index: (R,) int64, the image of each instance. None: the instance itself.
        """
        image = self.instance[: self.num_lines]
        if index is not None:
            image = index.index_select(0, image)
        rows = self.position[: self.num_lines]
        cols = self.position[self.num_lines :].index_select(0, self._along_lines(self.offsets[1]))
        if not isinstance(images, Tensor):
            return images[image.index_select(0, self.line), rows.index_select(0, self.line), cols]
        _, height, width = images.shape
        first = (image * (height * width)).add_(rows, alpha=width)
        return images.flatten().index_select(0, cols.add_(first.index_select(0, self.line)))

    def sums(self, values: Tensor) -> Tensor:
        """Returns the sums of integers or bools (..., P) over each window, (..., K) int64, each below 2^63."""
        return F.pad(values.cumsum(-1), (1, 0)).index_select(-1, self.bounds).diff()

    def resize(self, maps: Tensor, first: Tensor, weight: Tensor) -> Tensor:
        """Interpolates the map of each window's instance at its pixels: columns first, then rows. It is differentiable.

        Args:
            maps: (M, R, M) float, the rows of the maps of all instances.
            first: (S,) int64 in [0, M - 2], the first of the two neighboring map elements that each side lies between.
            weight: (S,) float in [0, 1], weight of the second one.

        Returns:
            (P,) float.
        """
        side, num_lines = maps.shape[0], self.num_lines
        columns, num_columns = maps.view(side, -1), len(first) - num_lines
        start = torch.add(first[num_lines:], self.instance[num_lines:], alpha=side)
        widened = torch.lerp(
            columns.index_select(1, start), columns[:, 1:].index_select(1, start), weight[num_lines:]
        ).flatten()
        address = self._along_lines(torch.add(self.offsets[1], first[:num_lines], alpha=num_columns))
        return torch.lerp(
            widened.index_select(0, address),
            widened[num_columns:].index_select(0, address),
            weight[:num_lines].index_select(0, self.line),
        )


def upload(arrays: Sequence[np.ndarray], device: torch.device) -> list[Tensor]:
    """Copies int64 arrays to a device at once, since each copy makes the CPU wait for a GPU."""
    values = torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *(array.ravel() for array in arrays)])).to(device)
    parts = values.split([array.size for array in arrays])
    return [part.view(array.shape) for part, array in zip(parts, arrays, strict=True)]


def count_pixels(windows: Sequence[Window]) -> int:
    """Returns the number of pixels of all windows."""
    return sum((rows.stop - rows.start) * (cols.stop - cols.start) for rows, cols in windows)


def chunk_windows(windows: Sequence[Window], limit: int) -> Iterator[slice]:
    """Yields consecutive parts of a list of windows, each of one window or of at most `limit` pixels."""
    start = total = 0
    for place, window in enumerate(windows):
        pixels = count_pixels([window])
        if place > start and total + pixels > limit:
            yield slice(start, place)
            start, total = place, 0
        total += pixels
    if windows:
        yield slice(start, len(windows))

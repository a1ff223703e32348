"""Pixels of many windows of an image as one flat list, which a GPU processes in one launch per operation.

Shapes: K is the number of windows, S the number of all their columns and rows, called sides, L the number of all their
rows, called lines, P the number of all their pixels, M the side of a map that is resized to a window.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

Window = tuple[slice, slice]
"""Rows and columns of an image, as slices with Python ints."""


@dataclass(frozen=True)
class WindowPixels:
    """Pixels of K windows, ordered by window, then by line, then by column.

    The pixels of a line are consecutive in the list and in any image. So an image is read at `addresses` of the first
    pixel of each line. Building the list takes the same number of operations for any number of windows, and the CPU
    does not wait for a GPU.

    Attributes:
        num_cols: number of columns of all windows.
        side: (S,) int64, k for each column of window k, then K + k for each line of window k.
        window: (L,) int64, window of each line.
        position: (S,) int64, the image column or image row of each side.
        side_start: (2 K,) int64, index in `side` of the first column, or of the first line, of each window.
        bounds: (K + 1,) int64, index in the list of the first pixel of each window, then P.
        line: (P,) int32, line of each pixel, in [0, L).
        line_start: (L,) int64, index in the list of the first pixel of each line.
    """

    num_cols: int
    side: Tensor
    window: Tensor
    position: Tensor
    side_start: Tensor
    bounds: Tensor
    line: Tensor
    line_start: Tensor

    @classmethod
    def of(cls, corners: Tensor, windows: Sequence[Window]) -> WindowPixels:
        """Lists the pixels of K windows.

        Args:
            corners: (K, 4) int64, the windows as XYXY with exclusive ends.
            windows: the same windows on the CPU. They tell the lengths of the lists without a copy from a GPU.
        """
        num, device = len(windows), corners.device
        num_cols = sum(cols.stop - cols.start for _, cols in windows)
        num_lines = sum(rows.stop - rows.start for rows, _ in windows)
        edges = corners.t().contiguous()
        first = edges[:2].flatten()
        length = edges[2:].flatten() - first
        side_start = length.cumsum(0) - length
        side = torch.repeat_interleave(length, output_size=num_cols + num_lines)
        position = torch.arange(num_cols + num_lines, device=device) + (first - side_start).index_select(0, side)
        window = side[num_cols:] - num
        line_length = length.index_select(0, window)
        line = torch.repeat_interleave(line_length.int(), output_size=count_pixels(windows))
        bounds = torch.zeros(num + 1, dtype=torch.int64, device=device)
        torch.cumsum(length[:num] * length[num:], 0, out=bounds[1:])
        return cls(num_cols, side, window, position, side_start, bounds, line, line_length.cumsum(0) - line_length)

    @cached_property
    def place(self) -> Tensor:
        """The numbers 0..P-1, (P,) int32."""
        return torch.arange(len(self.line), dtype=torch.int32, device=self.line.device)

    @cached_property
    def _first_side(self) -> Tensor:
        """Index in `side` of the first column of each line's window, (L,) int64."""
        return self.side_start.index_select(0, self.window)

    def of_windows(self, values: Tensor) -> Tensor:
        """Returns values of the K windows, (K,), at all of their pixels, (P,)."""
        return values.index_select(0, self.window).index_select(0, self.line)

    def addresses(self, first: Tensor) -> Tensor:
        """Returns the index of each pixel in a flat array.

        Args:
            first: (L,) int64, the index of the first pixel of each line. The other pixels of the line follow it.

        Returns:
            (P,) int64.
        """
        return (first - self.line_start).index_select(0, self.line).add_(self.place)

    def line_addresses(self, size: tuple[int, int], image: Tensor | None = None) -> Tensor:
        """Returns the index of the first pixel of each line in flattened images of `size` (H, W), (L,) int64.

        Args:
            size: (height, width) of the images.
            image: (K,) int64, the image of each window. None: the first one.
        """
        first = self.position.index_select(0, self._first_side)
        first += self.position[self.num_cols :] * size[1]
        return first if image is None else first.add_((image * (size[0] * size[1])).index_select(0, self.window))

    def read(self, images: Tensor, image: Tensor) -> Tensor:
        """Returns the values of images (N, H, W) at all pixels, (P,). `image` (K,) is the image of each window.

        The images are a tensor, or `CroppedMasks`, which have an index per pixel instead of addresses.
        """
        if not isinstance(images, Tensor):
            cols = self.position.index_select(0, self.addresses(self._first_side))
            rows = self.position[self.num_cols :].index_select(0, self.line)
            return images[self.of_windows(image), rows, cols]
        _, height, width = images.shape
        first = self.position[self.num_cols :] * width
        first += (image * (height * width)).index_select(0, self.window)
        cols = self.position.index_select(0, self.addresses(self._first_side))
        return images.flatten().index_select(0, cols.add_(first.index_select(0, self.line)))

    def sums(self, values: Tensor) -> Tensor:
        """Returns the sum of integers or bools (P,) over each window, (K,) int64. Each sum must be below 2^63."""
        return F.pad(values.cumsum(0), (1, 0)).index_select(0, self.bounds).diff()

    def resize(self, maps: Tensor, rows: Tensor, first: Tensor, weight: Tensor) -> Tensor:
        """Interpolates one map per window at its pixels: columns first, then rows.

        Args:
            maps: (R, M, M) float.
            rows: (K,) int64, the map of each window.
            first: (S,) int64 in [0, M - 2], the first of the two neighboring map elements that each side lies between.
            weight: (S,) float in [0, 1], weight of the second one.

        Returns:
            (P,) float.
        """
        side, num_cols = maps.shape[-1], self.num_cols
        columns = maps.permute(1, 0, 2).reshape(side, -1)
        start = (rows * side).index_select(0, self.side[:num_cols]).add_(first[:num_cols])
        widened = torch.lerp(
            columns.index_select(1, start), columns[:, 1:].index_select(1, start), weight[:num_cols]
        ).flatten()
        address = self.addresses(torch.add(self._first_side, first[num_cols:], alpha=num_cols))
        return torch.lerp(
            widened.index_select(0, address),
            widened[num_cols:].index_select(0, address),
            weight[num_cols:].index_select(0, self.line),
        )


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

"""Semantic logits of one image, resized to output resolution in row strips; numpy twin of the class in `modeling`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from panoptic_fusion.resampling import bilinear_sums, source_positions

from .interpolation import AxisTaps, lerp

MAX_STRIP_ELEMENTS = 2**16
"""Number of floats per strip: fits the cache of a CPU core."""

Size = tuple[int, int]  # (height, width) in pixels


@dataclass(frozen=True)
class SemSegLogits:
    """Logits of the stuff head for one image, with the sizes needed to resize them to the output.

    Attributes:
        logits: (C, h, w) float32, at an integer stride of the padded input.
        padded_size: size of the padded input.
        image_size: size of the image in it, before padding.
        output_size: size H x W of the result.
    """

    logits: np.ndarray
    padded_size: Size
    image_size: Size
    output_size: Size

    @property
    def stride(self) -> int:
        """Stride of the logits in pixels of the padded input."""
        return self.padded_size[0] // self.logits.shape[1]

    def select(self, channels: slice) -> SemSegLogits:
        """Returns a copy with only the given channels."""
        return replace(self, logits=self.logits[channels])

    def full(self) -> np.ndarray:
        """Returns all logits at output size in one array, (C, H, W) float32."""
        return np.concatenate([logits for _, _, logits in self.strips()], axis=1)

    def strips(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """Yields (y0, y1, logits (C, y1 - y0, W) float32) for consecutive strips of output rows, from the top."""
        height, width = self.output_size
        channels, _, columns = self.logits.shape
        rows = max(1, MAX_STRIP_ELEMENTS // (channels * max(width, columns * self.stride)))
        columns_taps = self._taps(1)
        for y0 in range(0, height, rows):
            y1 = min(y0 + rows, height)
            logits = self._rows(y0, y1)
            for taps, length in columns_taps:
                logits = taps.resize(logits[..., :length])
            yield y0, y1, logits[..., :width]

    def argmax(self) -> np.ndarray:
        """Returns the channel of the highest logit of every pixel, (H, W) int16, the lowest channel in a tie.

        The sums have the order of `interpolated_argmax` in `modeling`. Each row of logits is widened once.
        """
        sizes = zip(self.output_size, self.image_size, self.logits.shape[1:], strict=True)
        (row_first, row_weight), (first, weight) = (bilinear_sums(*size, self.stride) for size in sizes)
        columns = [np.minimum(first + k, self.logits.shape[2] - 1) for k in range(3)]
        labels = np.empty(self.output_size, np.int16)
        wide: dict[int, np.ndarray] = {}
        for y in range(self.output_size[0]):
            rows = [min(row_first[y] + k, self.logits.shape[1] - 1) for k in range(3)]
            for row in rows:
                if row not in wide:
                    wide[row] = _weighted_sum([self.logits[:, row, index] for index in columns], weight)
            labels[y] = max_over_channels(_weighted_sum([wide[row] for row in rows], row_weight[:, y, None]))[1]
            wide = {row: wide[row] for row in rows}
        return labels

    def depends_on(self, cells: np.ndarray) -> np.ndarray:
        """Returns the pixels at output size whose logits depend on any of the given cells.

        Args:
            cells: (h, w) bool.

        Returns:
            (H, W) bool.
        """
        for axis in (0, 1):
            cells = np.moveaxis(cells, axis, -1)
            for taps, length in self._taps(axis):
                cells = taps.touched(cells[..., :length])
            cells = np.moveaxis(cells[..., : self.output_size[axis]], -1, axis)
        return cells

    def _rows(self, y0: int, y1: int) -> np.ndarray:
        """Returns rows y0..y1 of the output before widening, (C, y1 - y0, w) float32."""
        rows = np.arange(y0, y1, dtype=np.float32)
        if self.image_size[0] == self.output_size[0]:
            return self._input_rows(rows)
        source = source_positions(rows, self.image_size[0] / self.output_size[0])
        upper = np.floor(source)
        first, second = (self._input_rows(np.minimum(r, self.image_size[0] - 1)) for r in (upper, upper + 1))
        return lerp(first, second, (source - upper)[:, None])

    def _input_rows(self, rows: np.ndarray) -> np.ndarray:
        """Returns the given rows (K,) float32 of the input before widening, (C, K, w) float32."""
        source = source_positions(rows, 1 / self.stride)
        upper = np.floor(source)
        last = self.logits.shape[1] - 1
        first, second = (self.logits[:, np.minimum(r.astype(np.int64), last)] for r in (upper, upper + 1))
        return lerp(first, second, (source - upper)[:, None])

    def _taps(self, axis: int) -> list[tuple[AxisTaps, int]]:
        """Returns the resizes along one axis, each with the number of elements that it reads from the previous one.

        They are the resize from the logits to the padded input, and the one from the image to the output if needed.
        """
        length = self.logits.shape[1 + axis]
        taps = [(AxisTaps.of_resize(length, length * self.stride, 1 / self.stride), length)]
        old, new = self.image_size[axis], self.output_size[axis]
        return taps if old == new else [*taps, (AxisTaps.of_resize(old, new), old)]


def _weighted_sum(parts: list[np.ndarray], weight: np.ndarray) -> np.ndarray:
    """Returns the sum of three float32 arrays with weights (3, ...), in this order; the last may all be 0."""
    total = parts[0] * weight[0]
    total += parts[1] * weight[1]
    if weight[2].any():
        total += parts[2] * weight[2]
    return total


def max_over_channels(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the highest value of each pixel of (C, ...) logits without NaN, and its lowest channel as int16.

    `argmax` over the first axis is slow in numpy. Channels that reach the maximum are marked with numbers that decrease
    with the channel, and the highest mark is taken.
    """
    channels = len(logits)
    marks = np.arange(channels, 0, -1).astype(np.uint8 if channels < 256 else np.int16)
    highest = logits.max(axis=0)
    marked = (logits == highest) * marks.reshape(-1, *[1] * (logits.ndim - 1))
    return highest, channels - marked.max(axis=0).astype(np.int16)

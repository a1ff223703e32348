"""Semantic logits of one image, resized to output resolution in row strips, never all at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F

from panoptic_fusion.modeling.fusion.interpolated_argmax import (
    bilinear_taps,
    interpolated_argmax,
)

MAX_STRIP_ELEMENTS = {"cpu": 2**20, "cuda": 2**24}
"""Maximum number of float elements per strip, by device type: fits the CPU cache, keeps the GPU busy."""


@dataclass(frozen=True)
class SemSegLogits:
    """Logits of the stuff head for one image, with the sizes needed to resize them to the output.

    The values at output size match bilinear upsampling by the stride, cropping to the image, and bilinear resizing to
    the output size, as in detectron2's heads and `sem_seg_postprocess`, up to float32 rounding. Both steps act on rows
    and columns separately. A strip of output rows therefore interpolates only the few rows of the logits that it needs,
    and widens them afterward.

    Attributes:
        logits: (C, h, w) float, at `stride` of the padded input.
        padded_size: (height, width) of the padded input, stride * (h, w).
        image_size: (height, width) of the image in it, before padding.
        output_size: (height, width) H x W of the result.
    """

    logits: torch.Tensor
    padded_size: tuple[int, int]
    image_size: tuple[int, int]
    output_size: tuple[int, int]

    def __post_init__(self):
        height, width = self.logits.shape[-2:]
        stride = self.padded_size[0] // max(height, 1)
        if self.logits.dim() != 3 or (height * stride, width * stride) != tuple(self.padded_size) or stride < 1:
            raise ValueError(
                f"Logits of shape {tuple(self.logits.shape)} are no (C, h, w) at an integer stride of the padded "
                f"size {tuple(self.padded_size)}."
            )
        if not all(0 < image <= padded for image, padded in zip(self.image_size, self.padded_size, strict=True)):
            raise ValueError(f"Image size {self.image_size} does not lie in the padded size {self.padded_size}.")
        if not all(side > 0 for side in self.output_size):
            raise ValueError(f"Output size {self.output_size} is empty.")

    @property
    def stride(self) -> int:
        """Stride of the logits in pixels of the padded input."""
        return self.padded_size[0] // self.logits.shape[1]

    @property
    def num_channels(self) -> int:
        """Number of channels of the logits."""
        return self.logits.shape[0]

    def select(self, channels: slice | list[int] | torch.Tensor) -> SemSegLogits:
        """Returns a copy with only the given channels."""
        return replace(self, logits=self.logits[channels])

    def full(self) -> torch.Tensor:
        """Returns all logits at output size in one tensor, (C, H, W) float32."""
        x = F.interpolate(self.logits[None].float(), scale_factor=float(self.stride), mode="bilinear")
        x = x[..., : self.image_size[0], : self.image_size[1]]
        if tuple(self.image_size) != tuple(self.output_size):
            x = F.interpolate(x, size=self.output_size, mode="bilinear")
        return x[0]

    def strip_rows(self) -> list[tuple[int, int]]:
        """Returns the rows (y0, y1) of the strips: consecutive rows of the output, from the top."""
        height, width = self.output_size
        widest = max(width, self.logits.shape[2] * self.stride)
        rows = max(1, self._max_elements() // (self.num_channels * widest))
        return [(y0, min(y0 + rows, height)) for y0 in range(0, height, rows)]

    def strips(self) -> Iterator[tuple[int, int, torch.Tensor]]:
        """Yields (y0, y1, logits (C, y1 - y0, W) float32) for the strips in `strip_rows`."""
        for y0, y1 in self.strip_rows():
            yield y0, y1, self._widen(self._rows(y0, y1))

    def argmax(self) -> torch.Tensor:
        """Returns the channel of the highest logit of every pixel, (H, W) int64, the lowest channel in a tie."""
        if self.logits.device.type == "cpu":
            sizes = zip(self.output_size, self.image_size, self.logits.shape[1:], strict=True)
            found = interpolated_argmax(self.logits.float(), *(bilinear_taps(*size, self.stride) for size in sizes))
            if found is not None:
                return found
        labels = torch.empty(self.output_size, dtype=torch.int64, device=self.logits.device)
        for y0, y1, logits in self.strips():
            labels[y0:y1] = max_over_channels(logits)[1]
        return labels

    def _max_elements(self) -> int:
        return MAX_STRIP_ELEMENTS.get(self.logits.device.type, MAX_STRIP_ELEMENTS["cuda"])

    def _rows(self, y0: int, y1: int) -> torch.Tensor:
        """Returns rows y0..y1 of the output before widening, (C, y1 - y0, w) float32."""
        rows = torch.arange(y0, y1, device=self.logits.device, dtype=torch.float32)
        if self.image_size[0] == self.output_size[0]:
            return self._input_rows(rows)
        source = _source_positions(rows, self.image_size[0] / self.output_size[0])
        upper = source.floor()
        first, second = (self._input_rows(r.clamp(max=self.image_size[0] - 1)) for r in (upper, upper + 1))
        return torch.lerp(first, second, (source - upper)[:, None])

    def _input_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Returns the given rows (K,) of the input before widening, (C, K, w) float32."""
        source = _source_positions(rows, 1 / self.stride)
        upper = source.floor()
        last = self.logits.shape[1] - 1
        first, second = (self.logits.index_select(1, r.long().clamp(max=last)).float() for r in (upper, upper + 1))
        return torch.lerp(first, second, (source - upper)[:, None])

    def _widen(self, x: torch.Tensor) -> torch.Tensor:
        """Resizes (C, rows, w) from the width of the logits to (C, rows, W)."""
        x = F.interpolate(x[None], scale_factor=(1.0, float(self.stride)), mode="bilinear")
        x = x[..., : self.image_size[1]]
        if self.image_size[1] != self.output_size[1]:
            x = F.interpolate(x, size=(x.shape[2], self.output_size[1]), mode="bilinear")
        return x[0]


def max_over_channels(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the same as `logits.max(dim=0)` for (C, h, w) float without NaN: values, and channels as int16.

    It takes a fifth of the time on a CPU, where maxima are fast but their positions are slow. The channels that reach
    the maximum are marked with numbers that decrease with the channel, and the highest mark is taken.
    """
    channels = logits.shape[0]
    marks = torch.arange(channels, 0, -1, device=logits.device, dtype=torch.uint8 if channels < 256 else torch.int16)
    highest = logits.amax(dim=0)
    marked = (logits == highest) * marks[:, None, None]
    return highest, channels - marked.amax(dim=0).clamp(min=1).short()


def _source_positions(positions: torch.Tensor, scale: float) -> torch.Tensor:
    """Returns the source positions of bilinear resizing (align_corners=False), not clamped at the far end."""
    return ((positions + 0.5) * scale - 0.5).clamp(min=0)

"""Semantic labels as the input of a fusion, for models that do not return logits."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LabelMap:
    """Label map with one semantic channel per pixel, which the greedy rules use like `SemSegLogits`.

    Attributes:
        labels: (H, W) int64 in [0, num_channels).
        num_channels: number of channels, stuff first.
    """

    labels: Tensor
    num_channels: int

    @property
    def output_size(self) -> tuple[int, int]:
        """Height and width of the map."""
        return (self.labels.shape[0], self.labels.shape[1])

    @property
    def image_size(self) -> tuple[int, int]:
        """The same as `output_size`: a label map is not resized."""
        return self.output_size

    def argmax(self) -> Tensor:
        """Returns the channel of every pixel, (H, W) int64."""
        return self.labels

"""Semantic labels that are final, in the place of logits: what many models return."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LabelMap:
    """A map of semantic channels, which the greedy rules read like `SemSegLogits`.

    Attributes:
        labels: (H, W) int64 in [0, num_channels).
        num_channels: the number of channels, stuff first.
    """

    labels: Tensor
    num_channels: int

    @property
    def output_size(self) -> tuple[int, int]:
        """(height, width) of the map."""
        return (self.labels.shape[0], self.labels.shape[1])

    @property
    def image_size(self) -> tuple[int, int]:
        """The same as `output_size`: a label map is not resized."""
        return self.output_size

    def argmax(self) -> Tensor:
        """Returns the channel of every pixel, (H, W) int64."""
        return self.labels

"""Resizes images for the network exactly as detectron2's `ResizeShortestEdge` does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from panoptic_fusion.errors import UserError

from .sem_seg_logits import Size


@dataclass(frozen=True)
class ResizeRule:
    """Size of the network's input for an image.

    Attributes:
        min_size: short side in pixels; 0 keeps the size of the image.
        max_size: limit of the long side in pixels.
        size: (height, width) of a network that was exported for one size, otherwise None.
    """

    min_size: int
    max_size: int
    size: Size | None = None

    def output_size(self, size: Size) -> Size:
        """Returns the size that an image of `size` is resized to.

        Raises:
            UserError: if the network was exported for one size, and the result differs.
        """
        result = size
        if self.min_size:
            scale = self.min_size / min(size)
            height, width = (self.min_size if n == min(size) else scale * n for n in size)
            if max(height, width) > self.max_size:
                scale = self.max_size / max(height, width)
                height, width = height * scale, width * scale
            result = int(height + 0.5), int(width + 0.5)
        if self.size is not None and result != self.size:
            raise UserError(
                f"an image of {size[1]}x{size[0]} pixels is resized to {result[1]}x{result[0]}, but the model was "
                f"exported for {self.size[1]}x{self.size[0]} only: export it without --size, or resize the image"
            )
        return result

    def resize(self, image: np.ndarray) -> np.ndarray:
        """Resizes an image (H, W, 3) uint8 with Pillow's bilinear filter, which OpenCV's does not equal.

        Raises:
            UserError: as `output_size`.
        """
        height, width = self.output_size(image.shape[:2])
        if (height, width) == image.shape[:2]:
            return image
        return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))

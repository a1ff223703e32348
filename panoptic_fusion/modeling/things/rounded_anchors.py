"""Anchors with rounded sizes, as in the first Faster R-CNN, Detectron and UPSNet's published models."""

import math

import torch
from detectron2.modeling.anchor_generator import ANCHOR_GENERATOR_REGISTRY, DefaultAnchorGenerator
from torch import Tensor

from panoptic_fusion.errors import ConfigError

SCALE = 8  # sides are multiples of this number of pixels


@ANCHOR_GENERATOR_REGISTRY.register()
class RoundedAnchorGenerator(DefaultAnchorGenerator):
    """detectron2's anchors with sides rounded to multiples of 8 pixels.

    Their area is not exactly `size` squared for aspect ratios other than 1. Size 32 produces 48 x 24, 32 x 32 and
    24 x 48, where detectron2 has 45.3 x 22.6. A model trained with one anchor type predicts slightly shifted boxes with
    the other.
    """

    def generate_cell_anchors(
        self, sizes: tuple[float, ...] = (32, 64, 128, 256, 512), aspect_ratios: tuple[float, ...] = (0.5, 1, 2)
    ) -> Tensor:
        """Generates the anchors of one cell.

        Args:
            sizes: sizes of the anchors of aspect ratio 1 in pixels, multiples of 8.
            aspect_ratios: height / width.

        Returns:
            (sizes x ratios, 4) float, XYXY around (0, 0).

        Raises:
            ConfigError: if a size is not a multiple of 8, or if a side would be 0 after rounding.
        """
        anchors = []
        for size in sizes:
            if size <= 0 or size % SCALE:
                raise ConfigError(
                    f"MODEL.ANCHOR_GENERATOR.SIZES has {size}: RoundedAnchorGenerator needs multiples of {SCALE}; else "
                    "use DefaultAnchorGenerator"
                )
            for ratio in aspect_ratios:
                width = round(size / SCALE / math.sqrt(ratio))
                height = round(width * ratio)  # half to even, as numpy rounds
                if not width or not height:
                    raise ConfigError(
                        f"MODEL.ANCHOR_GENERATOR.SIZES has {size}, MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS {ratio}: "
                        f"rounded to multiples of {SCALE} a side is 0; use a larger size"
                    )
                x, y = width * SCALE / 2, height * SCALE / 2
                anchors.append([-x, -y, x, y])
        return torch.tensor(anchors)

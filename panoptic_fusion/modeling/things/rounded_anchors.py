"""Anchors of rounded sizes, as in the first Faster R-CNN and Detectron: those of UPSNet's published models."""

import math

import torch
from detectron2.modeling.anchor_generator import ANCHOR_GENERATOR_REGISTRY, DefaultAnchorGenerator
from torch import Tensor

from panoptic_fusion.errors import ConfigError

SCALE = 8  # pixels that sides are multiples of


@ANCHOR_GENERATOR_REGISTRY.register()
class RoundedAnchorGenerator(DefaultAnchorGenerator):
    """detectron2's anchors with sides rounded to multiples of 8 pixels.

    Their area is not quite `size` squared for aspect ratios other than 1: size 32 gives 48 x 24, 32 x 32 and 24 x 48,
    where detectron2 has 45.3 x 22.6. A model that was trained with the ones predicts boxes a little off with the
    others.
    """

    def generate_cell_anchors(
        self, sizes: tuple[float, ...] = (32, 64, 128, 256, 512), aspect_ratios: tuple[float, ...] = (0.5, 1, 2)
    ) -> Tensor:
        """
        Args:
            sizes: of the anchors of aspect ratio 1, in pixels; multiples of 8.
            aspect_ratios: height / width.

        Returns:
            (sizes x ratios, 4) float, XYXY around (0, 0).

        Raises:
            ConfigError: a size is no multiple of 8, or a side would be 0 after rounding.
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

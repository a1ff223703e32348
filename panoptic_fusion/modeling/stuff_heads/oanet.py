"""Stuff head of OANet (section 3.1, figure 3): two convolutions on every pyramid level, concatenation, two more."""

import fvcore.nn.weight_init as weight_init
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from panoptic_fusion.layers import resolve_norm

from .base import StuffHead, conv_norm_relu, level_settings, levels_from_finest, stack_levels


@SEM_SEG_HEADS_REGISTRY.register()
class OANetSemSegHead(StuffHead):
    """Two 3x3 convs and bilinear upsampling to 1/4 on each level, concatenation, one 3x3 conv, one 1x1 conv.

    Section 3.1 names these layers in this order, but without upsampling. Details are only in figure 3, a drawing
    without a text version. Our choices:

    - The "RPN feature maps" are P2 to P5 after FPN's 3x3 output convolution, the output of detectron2's FPN. With
      MODEL.SHARING "backbone" or "none", they come from the stuff branch's own FPN.
    - Every level has its own two convolutions.
    - Maps must have the same size to be concatenated, so all are upsampled to the size of P2.
    - All layers have `conv_dim` channels (128, as in the heads of detectron2 and TASCNet). A norm (group norm with 32
      groups) and ReLU follow each 3x3 convolution. The paper specifies neither channels nor norms.

    Object context (table 2) corresponds to MODEL.SEM_SEG_HEAD.ONTOLOGY: "full" supervises all stuff and thing classes,
    "stuff" only the stuff classes. The loss weight lambda of equation 1 is MODEL.SEM_SEG_HEAD.LOSS_WEIGHT.
    """

    @configurable
    def __init__(
        self,
        *,
        input_shape: dict[str, ShapeSpec],
        num_classes: int,
        conv_dim: int = 128,
        norm: str = "GN",
        **kwargs,
    ):
        """Builds the head.

        Args:
            input_shape: shapes of the feature maps that the head uses, in any order.
            num_classes: C, the number of semantic channels.
            conv_dim: channels of all 3x3 convolutions.
            norm: name for detectron2's `get_norm`, "InPlaceABN", or "" for none.
            kwargs: forwarded to `StuffHead`.

        Raises:
            ConfigError: if the stride of the finest level is not `common_stride`.
        """
        super().__init__(**kwargs)
        levels = levels_from_finest(input_shape, self.common_stride, "OANetSemSegHead")
        self.in_features = tuple(name for name, _ in levels)

        def conv(in_channels: int) -> Conv2d:
            return conv_norm_relu(in_channels, conv_dim, get_norm(resolve_norm(norm), conv_dim))

        self.levels = nn.ModuleDict(
            {name: nn.Sequential(conv(shape.channels), conv(conv_dim)) for name, shape in levels}
        )
        self.fuse = conv(len(levels) * conv_dim)
        self.predictor = nn.Conv2d(conv_dim, num_classes, 1)
        weight_init.c2_msra_fill(self.predictor)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Returns the constructor arguments from a config."""
        return {**super().from_config(cfg, input_shape), **level_settings(cfg, input_shape)}

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Returns the logits (N, C, H/4, W/4)."""
        return self.predictor(self.fuse(stack_levels(self.levels[name](features[name]) for name in self.in_features)))

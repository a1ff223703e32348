"""Stuff head of TASCNet (section 3.1.1): two convolutions on every pyramid level, concatenation, one prediction."""

import fvcore.nn.weight_init as weight_init
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from panoptic_fusion.errors import ConfigError
from panoptic_fusion.layers import resolve_norm

from .base import StuffHead, conv_norm_relu, level_settings, levels_from_finest, predict_from_levels


@SEM_SEG_HEADS_REGISTRY.register()
class TASCSemSegHead(StuffHead):
    """Two blocks of 3x3 conv, norm and ReLU and bilinear upsampling to 1/4 on each level, concatenation, 1x1 conv.

    Our choices where the paper does not specify details: its "set of 3x3 convolutions" is one convolution (the most
    that its parameter count allows), ReLU follows each norm, the last convolution is 1x1, and the levels are P2 to P5.
    See `predict_from_levels` for the order of the last steps.
    """

    @configurable
    def __init__(
        self,
        *,
        input_shape: dict[str, ShapeSpec],
        num_classes: int,
        conv_dim: int = 128,
        norm: str = "GN",
        num_groups: int = 16,
        **kwargs,
    ):
        """Builds the head.

        Args:
            input_shape: shapes of the feature maps that the head uses, in any order.
            num_classes: C, the number of semantic channels.
            conv_dim: channels of both convolutions.
            norm: name for detectron2's `get_norm`, or "InPlaceABN"; "GN" is group norm of `num_groups` groups.
            num_groups: number of groups of group norm.
            kwargs: forwarded to `StuffHead`.

        Raises:
            ConfigError: if the stride of the finest level is not `common_stride`, or the groups do not divide the
                channels.
        """
        super().__init__(**kwargs)
        levels = levels_from_finest(input_shape, self.common_stride, "TASCSemSegHead")
        if norm == "GN" and conv_dim % num_groups:
            raise ConfigError(
                f"MODEL.SEM_SEG_HEAD.CONVS_DIM is {conv_dim}: group norm needs a multiple of its {num_groups} groups"
            )
        self.in_features = tuple(name for name, _ in levels)

        def conv(in_channels: int) -> Conv2d:
            layer = nn.GroupNorm(num_groups, conv_dim) if norm == "GN" else get_norm(resolve_norm(norm), conv_dim)
            return conv_norm_relu(in_channels, conv_dim, layer)

        self.levels = nn.ModuleDict()
        for name, shape in levels:
            self.levels[name] = nn.Sequential(conv(shape.channels), conv(conv_dim))
        self.predictor = nn.Conv2d(len(levels) * conv_dim, num_classes, 1)
        weight_init.c2_msra_fill(self.predictor)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Returns the constructor arguments from a config."""
        return {**super().from_config(cfg, input_shape), **level_settings(cfg, input_shape)}

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Returns the logits (N, C, H/4, W/4)."""
        return predict_from_levels((self.levels[name](features[name]) for name in self.in_features), self.predictor)

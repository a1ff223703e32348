"""The stuff head of OANet (section 3.1, figure 3): two convolutions on every pyramid level, concatenation, two more."""

import fvcore.nn.weight_init as weight_init
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from panoptic_fusion.layers import resolve_norm

from .base import StuffHead, conv_norm_relu, level_settings, levels_from_finest, stack_levels


@SEM_SEG_HEADS_REGISTRY.register()
class OANetSemSegHead(StuffHead):
    """On each level two 3x3 convs, bilinear upsampling to 1/4; concatenation; one 3x3 conv; one 1x1 conv.

    Section 3.1 names these layers in this order, but no upsampling, and leaves the details to figure 3, a drawing that
    survives in no text. Our reading:

    - the "RPN feature maps" are P2 to P5 behind FPN's own 3x3 convolution, which is what detectron2's FPN puts out
      (with MODEL.SHARING "backbone" or "none" those of the stuff branch's own FPN);
    - every level has its own two convolutions;
    - maps of different sizes can be concatenated only at one size, which is that of P2;
    - `conv_dim` channels everywhere (128, as detectron2's and TASCNet's heads), and after each 3x3 convolution a norm
      (group norm of 32 groups) and ReLU: the paper gives neither channels nor norms.

    Object context (table 2) is MODEL.SEM_SEG_HEAD.ONTOLOGY: "full" supervises all stuff and thing classes, "stuff"
    the stuff classes only. The loss weight lambda of equation 1 is MODEL.SEM_SEG_HEAD.LOSS_WEIGHT.
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
        """
        Args:
            input_shape: of the feature maps that the head uses; any order.
            num_classes: C, the number of semantic channels.
            conv_dim: channels of all 3x3 convolutions.
            norm: a name of detectron2's `get_norm`, "InPlaceABN", or "" for none.
            kwargs: those of `StuffHead`.

        Raises:
            ConfigError: the finest level's stride is not `common_stride`.
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
        return {**super().from_config(cfg, input_shape), **level_settings(cfg, input_shape)}

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Logits (N, C, H/4, W/4) of the feature maps."""
        return self.predictor(self.fuse(stack_levels(self.levels[name](features[name]) for name in self.in_features)))

"""ResNet-18 of any width with activated norms, which replaces Seamless's ResNet-50 in the small configs.

detectron2's basic block applies its own activation in place, which an in-place activated norm does not allow. The small
networks therefore have their own block.
"""

import fvcore.nn.weight_init as weight_init
from detectron2.config import CfgNode
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import ResNet
from torch import Tensor
from torch.nn import functional as F

from panoptic_fusion.layers import check_norm, get_activated_norm

from .abn_resnet import AbnBlock, AbnStem
from .narrow_resnet import BLOCKS


class AbnBasicBlock(AbnBlock):
    """Basic block, leaky_relu(norm(conv2(...)) + shortcut(x)), of two 3x3 convolutions with activated norms.

    Names are detectron2's. The last norm also computes the sum and the activation. The shortcut is a projection if the
    stride is not 1 or the number of channels changes.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, norm: str = "InPlaceABN"):
        super().__init__(in_channels, out_channels, stride)

        def conv(channels: int, kernel_size: int, stride: int, activation: str = "leaky_relu") -> Conv2d:
            own_norm = get_activated_norm(norm, out_channels, activation)
            padding = kernel_size // 2
            layer = Conv2d(channels, out_channels, kernel_size, stride, padding, bias=False, norm=own_norm)
            weight_init.c2_msra_fill(layer)
            return layer

        self.shortcut = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = conv(in_channels, 1, stride, activation="identity")
        self.conv1 = conv(in_channels, 3, stride)
        self.conv2 = conv(out_channels, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the output of the block."""
        out = F.conv2d(self.conv1(x), self.conv2.weight, padding=1)
        return self.conv2.norm(out, x if self.shortcut is None else self.shortcut(x))


@BACKBONE_REGISTRY.register()
def build_narrow_abn_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """Builds a ResNet-18 with MODEL.RESNETS.RES2_OUT_CHANNELS channels in res2, doubled in each later stage."""
    resnets = cfg.MODEL.RESNETS
    norm = check_norm("MODEL.RESNETS.NORM", resnets.NORM)
    stem = AbnStem(input_shape.channels, resnets.STEM_OUT_CHANNELS, norm)
    stages, channels = [], resnets.STEM_OUT_CHANNELS
    for i, num_blocks in enumerate(BLOCKS):
        strides = [1 if i == 0 else 2] + [1] * (num_blocks - 1)
        width = resnets.RES2_OUT_CHANNELS * 2**i
        stages.append(
            ResNet.make_stage(
                AbnBasicBlock,
                num_blocks,
                stride_per_block=strides,
                in_channels=channels,
                out_channels=width,
                norm=norm,
            )
        )
        channels = width
    return ResNet(stem, stages, out_features=resnets.OUT_FEATURES, freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT)

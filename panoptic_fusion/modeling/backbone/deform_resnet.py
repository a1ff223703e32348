"""ResNet with deformable 3x3 convolutions in some stages, such as the published ResNet-101 of UPSNet on COCO.

The paper (section 4.1) names this ResNet-101, but not its deformable convolutions.

detectron2 has the same layout and names (`res3.0.conv2`, `res3.0.conv2_offset`), but its deformable convolution needs a
compiled extension and has no backward pass on a CPU.
"""

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import ResNet, build_resnet_backbone
from detectron2.modeling.backbone.resnet import BasicStem, BottleneckBlock
from torch import Tensor
from torch.nn import functional as F

from panoptic_fusion.errors import ConfigError
from panoptic_fusion.layers import DeformConv2d, compute_offsets_fp32, offset_conv


class DeformableBottleneck(BottleneckBlock):
    """detectron2's bottleneck with a deformable 3x3 convolution, whose offsets come from another 3x3 convolution.

    The offsets are initially zero, so with the weights of an ordinary ResNet it computes the same as that ResNet.
    """

    def __init__(self, *args, **kwargs):
        """Builds the block; `args` and `kwargs` are forwarded to detectron2's BottleneckBlock. Groups must be 1."""
        super().__init__(*args, **kwargs)
        plain = self.conv2
        channels, stride, dilation = plain.in_channels, plain.stride[0], plain.dilation[0]
        self.conv2_offset = offset_conv(channels, stride=stride, dilation=dilation)
        self.conv2 = DeformConv2d(channels, channels, 3, stride, dilation, dilation, bias=False, norm=plain.norm)
        self.conv2.weight = plain.weight

    def forward(self, x: Tensor) -> Tensor:
        """Returns the output of the block, as in BottleneckBlock."""
        out = F.relu(self.conv1(x))
        out = F.relu(self.conv2(out, compute_offsets_fp32(self.conv2_offset, out)))
        out = self.conv3(out)
        return F.relu(out + (x if self.shortcut is None else self.shortcut(x)))


@BACKBONE_REGISTRY.register()
def build_deformable_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """Builds detectron2's ResNet with `DeformableBottleneck` in the stages of MODEL.RESNETS.DEFORM_ON_PER_STAGE.

    Raises:
        ConfigError: if MODEL.RESNETS has deformable stages in a ResNet that does not support them.
    """
    resnets = cfg.MODEL.RESNETS
    deformable = list(resnets.DEFORM_ON_PER_STAGE)
    if not any(deformable):
        return build_resnet_backbone(cfg, input_shape)
    for key, value in {
        "DEFORM_MODULATED": False,
        "DEFORM_NUM_GROUPS": 1,
        "NUM_GROUPS": 1,
        "WIDTH_PER_GROUP": 64,
        "STEM_OUT_CHANNELS": 64,
        "RES2_OUT_CHANNELS": 256,
        "RES5_DILATION": 1,
    }.items():
        if resnets[key] != value:
            raise ConfigError(f"MODEL.RESNETS.{key} is {resnets[key]}: with DEFORM_ON_PER_STAGE set it to {value}")
    if resnets.DEPTH not in (50, 101, 152):
        raise ConfigError(f"MODEL.RESNETS.DEPTH is {resnets.DEPTH}: with DEFORM_ON_PER_STAGE use 50, 101 or 152")
    plain, deformed = (
        ResNet.make_default_stages(resnets.DEPTH, block, norm=resnets.NORM, stride_in_1x1=resnets.STRIDE_IN_1X1)
        for block in (BottleneckBlock, DeformableBottleneck)
    )
    return ResNet(
        BasicStem(input_shape.channels, norm=resnets.NORM),
        [b if deform else a for a, b, deform in zip(plain, deformed, deformable, strict=True)],
        out_features=resnets.OUT_FEATURES,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )

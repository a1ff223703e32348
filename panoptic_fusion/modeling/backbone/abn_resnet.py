"""ResNet with activated norms, the backbone of Seamless Scene Segmentation (section 3.1).

It has torchvision's layout (stride on the 3x3 convolution) and detectron2's names (`stem.conv1`, `res2.0.conv1.norm`,
`res2.0.shortcut`).
"""

from collections.abc import Callable

import fvcore.nn.weight_init as weight_init
from detectron2.config import CfgNode
from detectron2.layers import CNNBlockBase, Conv2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import ResNet
from torch import Tensor, nn
from torch.nn import functional as F

from panoptic_fusion.layers import check_norm, get_activated_norm

Norm = str | Callable[[int], nn.Module]
NUM_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def _conv(in_channels: int, out_channels: int, kernel_size: int, norm: nn.Module, stride: int = 1) -> Conv2d:
    conv = Conv2d(
        in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2, bias=False, norm=norm
    )
    weight_init.c2_msra_fill(conv)
    return conv


class AbnBlock(CNNBlockBase):
    """Base class of stems and blocks with activated norms, which detectron2's ResNet can freeze."""

    def freeze(self) -> "AbnBlock":
        """Freezes all parameters and returns the block.

        As in the published code, batch norms still use batch statistics and update the running ones (detectron2 would
        freeze them).
        """
        for parameter in self.parameters():
            parameter.requires_grad_(False)
        return self


class AbnStem(AbnBlock):
    """Stem: 7x7 convolution with stride 2 and activated norm, then 3x3 max pooling with stride 2."""

    def __init__(self, in_channels: int = 3, out_channels: int = 64, norm: Norm = "InPlaceABN"):
        super().__init__(in_channels, out_channels, 4)
        self.conv1 = _conv(in_channels, out_channels, 7, get_activated_norm(norm, out_channels), stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Returns features at stride 4 for images."""
        return F.max_pool2d(self.conv1(x), kernel_size=3, stride=2, padding=1)


class AbnBottleneck(AbnBlock):
    """Bottleneck block with activated norms, leaky_relu(norm(conv3(...)) + shortcut(x)).

    The last norm also computes the sum and the activation, so that not even its own result is kept for the backward
    pass. The shortcut is a projection if the stride is not 1 or the number of channels changes.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bottleneck_channels: int,
        stride: int = 1,
        norm: Norm = "InPlaceABN",
    ):
        super().__init__(in_channels, out_channels, stride)
        self.shortcut = None
        if stride != 1 or in_channels != out_channels:
            projection_norm = get_activated_norm(norm, out_channels, activation="identity")
            self.shortcut = _conv(in_channels, out_channels, 1, projection_norm, stride)
        width = bottleneck_channels
        self.conv1 = _conv(in_channels, width, 1, get_activated_norm(norm, width))
        self.conv2 = _conv(width, width, 3, get_activated_norm(norm, width), stride)
        self.conv3 = _conv(width, out_channels, 1, get_activated_norm(norm, out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the output of the block."""
        out = self.conv2(self.conv1(x))
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return self.conv3.norm(F.conv2d(out, self.conv3.weight), shortcut)


def build_abn_resnet(
    depth: int = 50,
    *,
    in_channels: int = 3,
    stem_channels: int = 64,
    res2_channels: int = 256,
    norm: str = "InPlaceABN",
    num_frozen: int = 0,
    out_features: tuple[str, ...] = ("res2", "res3", "res4", "res5"),
) -> ResNet:
    """Builds a ResNet with activated norms.

    Args:
        depth: 50, 101 or 152.
        in_channels: number of channels of the image.
        stem_channels, res2_channels: number of output channels of the stem and of res2. Each later stage has twice as
            many as the previous one, and a bottleneck has a quarter of its stage's.
        norm: name of the norm, see `get_activated_norm`.
        num_frozen: number of parts whose parameters are frozen: 1 for the stem, 2 for the stem and res2, and so on.
            Their statistics are still updated.
        out_features: names of the feature maps that `forward` returns, from "stem", "res2", ..., "res5".

    Returns:
        detectron2's ResNet, which returns a dict of feature maps for images (N, in_channels, H, W).

    Raises:
        ValueError: if the depth is not supported.
    """
    if depth not in NUM_BLOCKS:
        raise ValueError(f"MODEL.RESNETS.DEPTH is {depth}; with activated norms it must be one of {list(NUM_BLOCKS)}")
    stages, channels, out_channels = [], stem_channels, res2_channels
    for index, num_blocks in enumerate(NUM_BLOCKS[depth]):
        stages.append(
            ResNet.make_stage(
                AbnBottleneck,
                num_blocks,
                in_channels=channels,
                out_channels=out_channels,
                bottleneck_channels=out_channels // 4,
                stride_per_block=[1 if index == 0 else 2] + [1] * (num_blocks - 1),
                norm=norm,
            )
        )
        channels, out_channels = out_channels, 2 * out_channels
    stem = AbnStem(in_channels, stem_channels, norm)
    return ResNet(stem, stages, out_features=list(out_features), freeze_at=num_frozen)


@BACKBONE_REGISTRY.register()
def build_abn_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """Builds the backbone that MODEL.RESNETS describes, with its first MODEL.BACKBONE.FREEZE_AT parts frozen.

    Raises:
        ValueError: if MODEL.RESNETS has a value that this layout does not support.
    """
    resnets = cfg.MODEL.RESNETS
    width = resnets.RES2_OUT_CHANNELS // 4
    for key, value in {"STRIDE_IN_1X1": False, "NUM_GROUPS": 1, "WIDTH_PER_GROUP": width, "RES5_DILATION": 1}.items():
        if resnets[key] != value:
            raise ValueError(
                f"MODEL.RESNETS.{key} is {resnets[key]}; build_abn_resnet_backbone has torchvision's ResNet layout: "
                f"set it to {value}"
            )
    if any(resnets.DEFORM_ON_PER_STAGE):
        raise ValueError("MODEL.RESNETS.DEFORM_ON_PER_STAGE must be all False with build_abn_resnet_backbone")
    return build_abn_resnet(
        resnets.DEPTH,
        in_channels=input_shape.channels,
        stem_channels=resnets.STEM_OUT_CHANNELS,
        res2_channels=resnets.RES2_OUT_CHANNELS,
        norm=check_norm("MODEL.RESNETS.NORM", resnets.NORM),
        num_frozen=cfg.MODEL.BACKBONE.FREEZE_AT,
        out_features=tuple(resnets.OUT_FEATURES),
    )

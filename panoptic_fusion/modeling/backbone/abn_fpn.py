"""Feature pyramid with activated norms (Seamless, section 3.1).

Lateral and output convolutions have a norm and LeakyReLU. Top-down maps are resized to the exact size of the lateral
map. Extra levels come from the backbone's last stage.
"""

from collections.abc import Callable
from functools import partial

from detectron2.config import CfgNode
from detectron2.layers import Conv2d
from detectron2.modeling.backbone import FPN, Backbone
from torch import Tensor, nn
from torch.nn import functional as F

from panoptic_fusion.layers import check_norm, get_activated_norm

from .pyramid import pyramid

LEAKY_GAIN = nn.init.calculate_gain("leaky_relu", 0.01)


class AbnFPN(FPN):
    """detectron2's FPN (with its names `fpn_lateral2`, `fpn_output2`, `top_block.p6`, ...) and activated norms.

    It accepts images of any size: a top-down map is resized (nearest) to the size of its lateral map, while detectron2
    doubles it. `size_divisibility` is the same as in detectron2 (32).
    """

    def __init__(
        self,
        bottom_up: Backbone,
        in_features: list[str],
        out_channels: int = 256,
        *,
        num_extra_levels: int = 1,
        norm: str | Callable[[int], nn.Module] = "InPlaceABN",
    ):
        """Builds the pyramid.

        Args:
            bottom_up: backbone that provides the feature maps.
            in_features: names of its feature maps, from high to low resolution, each half as large as the previous one.
            out_channels: number of channels of every level.
            num_extra_levels: number of levels after the last feature map (strides 64, 128, ...).
            norm: norm of the convolutions, see `get_activated_norm`.
        """
        make_norm = partial(get_activated_norm, norm)
        last = in_features[-1]
        stage = bottom_up.output_shape()[last].stride.bit_length() - 1
        extra = None
        if num_extra_levels:
            extra = ExtraLevels(
                bottom_up.output_shape()[last].channels,
                out_channels,
                num_levels=num_extra_levels,
                make_norm=make_norm,
                in_feature=last,
                first_stage=stage + 1,
            )
        super().__init__(bottom_up, in_features, out_channels, norm=make_norm, top_block=extra)
        for conv in self.lateral_convs + self.output_convs:
            nn.init.xavier_normal_(conv.weight, LEAKY_GAIN)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Computes the feature pyramid.

        Args:
            x: (N, 3, H, W) images.

        Returns:
            dict of "p2", "p3", ..., in this order: (N, out_channels, H/4, W/4), ... (sizes rounded up).
        """
        features = self.bottom_up(x)
        results, top_down = [], None
        # detectron2 lists the convolutions from low to high resolution.
        levels = zip(self.in_features[::-1], self.lateral_convs, self.output_convs, strict=True)
        for name, lateral_conv, output_conv in levels:
            lateral = lateral_conv(features[name])
            if top_down is not None:
                lateral = lateral + F.interpolate(top_down, size=lateral.shape[-2:], mode="nearest")
            top_down = lateral
            results.insert(0, output_conv(top_down))
        if self.top_block is not None:
            results.extend(self.top_block(features[self.top_block.in_feature]))
        return dict(zip(self._out_features, results, strict=True))


class ExtraLevels(nn.Module):
    """Extra pyramid levels by 3x3 convolutions with stride 2 and activated norm.

    The first convolution reads the backbone's feature map `in_feature`, every other one the previous extra level. They
    are named after their levels (`p6`, `p7`).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        num_levels: int,
        make_norm: Callable[[int], nn.Module],
        in_feature: str = "res5",
        first_stage: int = 6,
    ):
        super().__init__()
        self.num_levels = num_levels
        self.in_feature = in_feature
        for level in range(num_levels):
            conv = Conv2d(
                in_channels if level == 0 else out_channels,
                out_channels,
                kernel_size=3,
                stride=2,
                padding=1,
                bias=False,
                norm=make_norm(out_channels),
            )
            nn.init.xavier_normal_(conv.weight, LEAKY_GAIN)
            self.add_module(f"p{first_stage + level}", conv)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Returns the extra levels, from high to low resolution."""
        results = []
        for conv in self.children():
            x = conv(x)
            results.append(x)
        return results


@pyramid
def build_abn_fpn_backbone(cfg: CfgNode, bottom_up: Backbone) -> AbnFPN:
    """Builds the AbnFPN that MODEL.FPN describes.

    The number of extra levels is the difference between the lengths of MODEL.RPN.IN_FEATURES and MODEL.FPN.IN_FEATURES.
    Only the region proposals use them (Cityscapes: one level, Vistas: two).
    """
    num_extra_levels = len(cfg.MODEL.RPN.IN_FEATURES) - len(cfg.MODEL.FPN.IN_FEATURES)
    if num_extra_levels < 0 or cfg.MODEL.FPN.FUSE_TYPE != "sum":
        raise ValueError(
            f"build_abn_fpn_backbone needs MODEL.FPN.FUSE_TYPE 'sum' (it is {cfg.MODEL.FPN.FUSE_TYPE!r}) and in "
            f"MODEL.RPN.IN_FEATURES at least the levels of MODEL.FPN.IN_FEATURES (it is {cfg.MODEL.RPN.IN_FEATURES})"
        )
    return AbnFPN(
        bottom_up,
        list(cfg.MODEL.FPN.IN_FEATURES),
        cfg.MODEL.FPN.OUT_CHANNELS,
        num_extra_levels=num_extra_levels,
        norm=check_norm("MODEL.FPN.NORM", cfg.MODEL.FPN.NORM),
    )

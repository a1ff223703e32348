"""Stuff head of Seamless Scene Segmentation (section 3.3): a small DeepLab head, MiniDL, on each pyramid level."""

from collections.abc import Callable

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from panoptic_fusion.layers import box_average, get_activated_norm
from panoptic_fusion.layers.activated_norm import ACTIVATED_NAMES

from .base import StuffHead, level_settings, levels_from_finest, predict_from_levels

LEAKY_GAIN = nn.init.calculate_gain("leaky_relu", 0.01)


class MiniDL(nn.Module):
    """Three branches (3x3; 3x3 of dilation 6; average over a fixed large window, then 1x1), concatenated and fused.

    As in the published code, the branches share one norm after the concatenation. This equals three separate batch
    norms, but with group norm some groups contain channels of two branches. The fusing convolution is 1x1, which
    matches the paper's parameter count, although its text says 3x3.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 128,
        *,
        pool_size: int = 64,
        fuse_kernel: int = 1,
        norm: str | Callable[[int], nn.Module] = "InPlaceABN",
    ):
        """Builds the branches.

        Args:
            in_channels: number of channels of the feature map.
            out_channels: number of channels of every branch and of the result.
            pool_size: side of the averaging window, in pixels of the feature map.
            fuse_kernel: kernel size of the fusing convolution, 1, or 3 as in the paper's text.
            norm: name or builder of the norm, see `get_activated_norm`.
        """
        super().__init__()
        self.pool_size = pool_size
        self.branch_3x3 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.branch_dilated = nn.Conv2d(in_channels, out_channels, 3, padding=6, dilation=6, bias=False)
        self.branch_pooled = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.norm = get_activated_norm(norm, 3 * out_channels)
        self.fuse = Conv2d(
            3 * out_channels,
            out_channels,
            fuse_kernel,
            padding=fuse_kernel // 2,
            bias=False,
            norm=get_activated_norm(norm, out_channels),
        )
        for conv in (self.branch_3x3, self.branch_dilated, self.branch_pooled, self.fuse):
            nn.init.xavier_normal_(conv.weight, LEAKY_GAIN)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, in_channels, H, W) to (N, out_channels, H, W)."""
        pooled = box_average(x, self.pool_size)
        branches = [self.branch_3x3(x), self.branch_dilated(x), self.branch_pooled(pooled)]
        return self.fuse(self.norm(torch.cat(branches, dim=1)))


@SEM_SEG_HEADS_REGISTRY.register()
class MiniDLSemSegHead(StuffHead):
    """MiniDL on every level (not shared), bilinear upsampling to the finest, concatenation, 1x1 convolution.

    See `predict_from_levels` for the order of the last steps. The loss is the cross entropy over the hardest pixels of
    each image without padding (section 3.4).
    """

    @configurable
    def __init__(
        self,
        *,
        input_shape: dict[str, ShapeSpec],
        num_classes: int,
        conv_dim: int = 128,
        pool_size: int = 64,
        fuse_kernel: int = 1,
        norm: str | Callable[[int], nn.Module] = "InPlaceABN",
        hard_pixel_fraction: float = 0.25,
        **kwargs,
    ):
        """Builds the head.

        Args:
            input_shape: shapes of the feature maps that the head uses, in any order.
            num_classes: C, the number of semantic channels.
            conv_dim, pool_size, fuse_kernel, norm: see `MiniDL`.
            hard_pixel_fraction: fraction of each image's pixels in the mean of the loss. 1 uses all.
            kwargs: forwarded to `StuffHead`.

        Raises:
            ConfigError: if the stride of the finest feature map is not `common_stride`.
        """
        super().__init__(hard_pixel_fraction=hard_pixel_fraction, **kwargs)
        levels = levels_from_finest(input_shape, self.common_stride, "MiniDLSemSegHead")
        self.in_features = tuple(name for name, _ in levels)
        self.heads = nn.ModuleDict(
            {
                name: MiniDL(shape.channels, conv_dim, pool_size=pool_size, fuse_kernel=fuse_kernel, norm=norm)
                for name, shape in levels
            }
        )
        self.predictor = nn.Conv2d(len(levels) * conv_dim, num_classes, 1)
        nn.init.xavier_normal_(self.predictor.weight, 0.1)
        nn.init.zeros_(self.predictor.bias)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Returns the constructor arguments from a config."""
        head = cfg.MODEL.SEM_SEG_HEAD
        return {
            **super().from_config(cfg, input_shape),
            **level_settings(cfg, input_shape, ACTIVATED_NAMES),
            "pool_size": head.MINIDL_POOL_SIZE,
            "fuse_kernel": head.MINIDL_FUSE_KERNEL,
        }

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Returns the logits (N, C, H/4, W/4)."""
        return predict_from_levels((self.heads[name](features[name]) for name in self.in_features), self.predictor)

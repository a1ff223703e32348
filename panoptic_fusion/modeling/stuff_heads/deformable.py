"""Stuff head of UPSNet (section 3.1, figure 2): deformable convolutions shared by all pyramid levels."""

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from detectron2.structures import Instances
from torch import Tensor, nn
from torch.nn import functional as F

from panoptic_fusion.errors import ConfigError
from panoptic_fusion.layers import DeformConv2d, compute_offsets_fp32, offset_conv, resolve_norm

from .base import StuffHead, level_settings, levels_from_finest, predict_from_levels
from .roi_loss import sem_seg_roi_loss

KEY = "MODEL.SEM_SEG_HEAD"


class DeformableLayer(nn.Module):
    """3x3 convolution to the offsets, 3x3 deformable convolution with bias, norm (the paper has none), ReLU."""

    def __init__(self, in_channels: int, out_channels: int, norm: str = ""):
        super().__init__()
        self.offset = offset_conv(in_channels)
        self.conv = DeformConv2d(
            in_channels, out_channels, 3, padding=1, norm=get_norm(resolve_norm(norm), out_channels)
        )
        nn.init.kaiming_normal_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, in_channels, H, W) to (N, out_channels, H, W)."""
        return F.relu(self.conv(x, compute_offsets_fp32(self.offset, x)))


@SEM_SEG_HEADS_REGISTRY.register()
class DeformableSemSegHead(StuffHead):
    """Shared deformable layers on every level, bilinear upsampling to 1/4, concatenation, 1x1 convolution.

    The paper does not specify the channels of the layers, or their number on COCO. As in the published code, the last
    two have `conv_dim` (128) channels, and earlier ones have as many as the levels (256). See `predict_from_levels` for
    the order of the last steps.

    Deviations: `loss_sem_seg` compares logits that are upsampled to input resolution, as in the published code. The
    paper (section 3.2) compares at 1/4. It is the mean over all labeled pixels of a batch. The published code uses one
    image per process. The offsets and the deformable convolutions are computed in float32 under mixed precision.

    `losses` adds `loss_sem_seg_roi`, the cross entropy inside the ground-truth boxes, see `sem_seg_roi_loss`.
    """

    trains = {"loss_sem_seg_roi": ("sem_seg_head",)}  # with a weight of its own, so not in `weighted_losses`

    @configurable
    def __init__(
        self,
        *,
        input_shape: dict[str, ShapeSpec],
        num_classes: int,
        conv_dim: int = 128,
        num_convs: int = 2,
        norm: str = "",
        roi_loss_weight: float = 0.0,
        **kwargs,
    ):
        """Builds the head.

        Args:
            input_shape: shapes of the feature maps that the head uses, in any order, with equal numbers of channels.
            num_classes: C, the number of semantic channels.
            conv_dim: channels of the last two layers.
            num_convs: number of layers: 2 (the paper's Cityscapes) or 3 (the published COCO models).
            norm: name for detectron2's `get_norm`, "InPlaceABN", or "" for none. Batch norms mix the statistics of all
                levels.
            roi_loss_weight: weight of `loss_sem_seg_roi`. 0 disables it.
            kwargs: forwarded to `StuffHead`.

        Raises:
            ConfigError: if the stride of the finest level is not `common_stride`, the levels differ in channels, the
                32 groups of group norm do not divide the channels, or a number is out of range.
        """
        super().__init__(**kwargs)
        levels = levels_from_finest(input_shape, self.common_stride, "DeformableSemSegHead")
        in_channels = levels[0][1].channels
        if {shape.channels for _, shape in levels} != {in_channels}:
            raise ConfigError(f"DeformableSemSegHead shares its layers: {KEY}.IN_FEATURES must have the same channels")
        if num_convs < 1:
            raise ConfigError(f"{KEY}.NUM_CONVS is {num_convs}: use 1 or more")
        if roi_loss_weight < 0:
            raise ConfigError(f"{KEY}.ROI_LOSS_WEIGHT is {roi_loss_weight}: use 0 or more")
        channels = [in_channels] * max(num_convs - 1, 1) + [conv_dim] * min(num_convs, 2)
        if norm == "GN" and any(c % 32 for c in channels[1:]):
            raise ConfigError(f"{KEY}.NORM is 'GN', whose 32 groups do not divide the layers' channels {channels[1:]}")
        self.in_features = tuple(name for name, _ in levels)
        self.roi_loss_weight = float(roi_loss_weight)
        self.layers = nn.Sequential(
            *(DeformableLayer(c, out, norm) for c, out in zip(channels, channels[1:], strict=False))
        )
        self.predictor = nn.Conv2d(len(levels) * conv_dim, num_classes, 1)
        nn.init.normal_(self.predictor.weight, std=0.01)
        nn.init.zeros_(self.predictor.bias)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Returns the constructor arguments from a config."""
        return {
            **super().from_config(cfg, input_shape),
            **level_settings(cfg, input_shape),
            "num_convs": cfg.MODEL.SEM_SEG_HEAD.NUM_CONVS,
            "roi_loss_weight": cfg.MODEL.SEM_SEG_HEAD.ROI_LOSS_WEIGHT,
        }

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Returns the logits (N, C, H/4, W/4)."""
        return predict_from_levels((self.layers(features[name]) for name in self.in_features), self.predictor)

    def losses(self, logits: Tensor, gt_sem_seg: Tensor, gt_instances: list[Instances]) -> dict[str, Tensor]:
        """Returns the losses of `StuffHead.losses`, and `loss_sem_seg_roi` if its weight is not 0."""
        losses = super().losses(logits, gt_sem_seg, gt_instances)
        if self.roi_loss_weight > 0:
            boxes = [x.gt_boxes for x in gt_instances]
            roi_loss = sem_seg_roi_loss(logits, gt_sem_seg, boxes, ignore_value=self.ignore_value)
            losses["loss_sem_seg_roi"] = self.roi_loss_weight * roi_loss
        return losses

"""Stuff head of the baseline, with the layout of Panoptic FPN and the project's channels.

Reference: Kirillov et al., "Panoptic Feature Pyramid Networks", section 3.1.
"""

from collections.abc import Sequence

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from detectron2.structures import Instances
from torch import Tensor

from panoptic_fusion.layers import resolve_norm

from .base import StuffHead, class_weight_tensor, class_weights_of, level_settings


@SEM_SEG_HEADS_REGISTRY.register()
class PanopticFPNHead(SemSegFPNHead):
    """detectron2's SemSegFPNHead with the interface of `StuffHead`; its checkpoints load.

    Deviation from detectron2: the channels are stuff first, then things (or one channel for all things). detectron2 has
    one "things" channel at 0.
    """

    trains = StuffHead.trains
    weighted_losses = StuffHead.weighted_losses

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        norm: str = "",
        hard_pixel_fraction: float = 1.0,
        class_weights: Sequence[float] = (),
        **kwargs,
    ):
        """Builds the head.

        Args:
            input_shape: shapes of the feature maps that the head uses.
            norm: name for detectron2's `get_norm`, "InPlaceABN", or "" for none.
            hard_pixel_fraction, class_weights: see `StuffHead`.
            kwargs: forwarded to detectron2's SemSegFPNHead.
        """
        super().__init__(input_shape, norm=resolve_norm(norm), **kwargs)
        self.hard_pixel_fraction = hard_pixel_fraction
        self.register_buffer("class_weights", class_weight_tensor(class_weights), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Returns the constructor arguments from a config."""
        levels = level_settings(cfg, input_shape)
        return {
            **super().from_config(cfg, input_shape),
            "input_shape": levels["input_shape"],
            "norm": levels["norm"],
            "hard_pixel_fraction": cfg.MODEL.SEM_SEG_HEAD.HARD_PIXEL_FRACTION,
            "class_weights": class_weights_of(cfg),
        }

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Returns the logits (N, C, H/4, W/4)."""
        return self.layers(features)

    def losses(self, logits: Tensor, gt_sem_seg: Tensor, gt_instances: list[Instances]) -> dict[str, Tensor]:
        """Computes the loss of the semantic logits, see `StuffHead.losses`."""
        return StuffHead.losses(self, logits, gt_sem_seg, gt_instances)

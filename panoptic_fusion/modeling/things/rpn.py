"""detectron2's RPN with support for both box conventions."""

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.proposal_generator.proposal_utils import find_top_rpn_proposals
from detectron2.structures import Boxes, Instances
from torch import Tensor

from .box_convention import BOX_CONVENTIONS, clip_to_pixels


@PROPOSAL_GENERATOR_REGISTRY.register()
class PanopticRPN(RPN):
    """detectron2's RPN, with clipping for inclusive boxes if MODEL.BOX_CONVENTION is "inclusive".

    Proposals are then clipped by `clip_to_pixels`, and no proposal is dropped for an area of 0. With "exclusive", the
    proposals equal detectron2's bit for bit.
    """

    box_conventions = BOX_CONVENTIONS

    @configurable
    def __init__(self, *, inclusive: bool = False, **kwargs):
        """
        Args:
            inclusive: whether boxes end at their last pixel.
            kwargs: forwarded to `RPN`.
        """
        super().__init__(**kwargs)
        self.inclusive = inclusive
        if inclusive and self.min_box_size == 0:
            self.min_box_size = -1.0  # detectron2 keeps the boxes whose sides are greater

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Returns the constructor arguments from a config."""
        return {**super().from_config(cfg, input_shape), "inclusive": cfg.MODEL.BOX_CONVENTION == "inclusive"}

    def predict_proposals(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        image_sizes: list[tuple[int, int]],
    ) -> list[Instances]:
        """See detectron2's RPN."""
        if not self.inclusive:
            return super().predict_proposals(anchors, pred_objectness_logits, pred_anchor_deltas, image_sizes)
        with torch.no_grad():
            levels = self._decode_proposals(anchors, pred_anchor_deltas)
            return find_top_rpn_proposals(
                [torch.stack([clip_to_pixels(*x) for x in zip(level, image_sizes, strict=True)]) for level in levels],
                pred_objectness_logits,
                image_sizes,
                self.nms_thresh,
                self.pre_nms_topk[self.training],
                self.post_nms_topk[self.training],
                self.min_box_size,
                self.training,
            )

"""Instance heads: the project's additions to detectron2's RPN and RoI heads."""

from .roi_heads import PanopticROIHeads
from .rounded_anchors import RoundedAnchorGenerator
from .rpn import PanopticRPN
from .seamless_box_head import SeamlessBoxHead
from .seamless_mask_head import SeamlessMaskHead
from .seamless_roi_heads import SeamlessROIHeads
from .seamless_rpn import SeamlessRPN, SeamlessRPNHead

__all__ = [
    "PanopticROIHeads",
    "PanopticRPN",
    "RoundedAnchorGenerator",
    "SeamlessBoxHead",
    "SeamlessMaskHead",
    "SeamlessROIHeads",
    "SeamlessRPN",
    "SeamlessRPNHead",
]

"""FPN with global context: the average of `res5` over the whole image is added to P5 (UPSNet, section 4.1)."""

from functools import partial

from detectron2.config import CfgNode
from detectron2.layers import Conv2d
from detectron2.modeling.backbone import FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import Tensor, nn

from .pyramid import pyramid


class GapFPN(FPN):
    """detectron2's FPN with a linear layer of the last feature map's global average added to that map's lateral.

    The paper adds it "before producing P5". As in the published code, it is added before the top-down path, so the
    context reaches every level, and the average includes the padding. It has neither norm nor activation.
    """

    def __init__(self, *args, **kwargs):
        """Builds the pyramid; `args` and `kwargs` are forwarded to detectron2's FPN."""
        super().__init__(*args, **kwargs)
        last = self.lateral_convs[0]
        self.fpn_gap = nn.Linear(last.in_channels, last.out_channels)
        self.lateral_convs[0] = partial(self._with_context, last)

    def _with_context(self, lateral_conv: Conv2d, x: Tensor) -> Tensor:
        return lateral_conv(x) + self.fpn_gap(x.mean((2, 3)))[:, :, None, None]


@pyramid
def build_gap_fpn_backbone(cfg: CfgNode, bottom_up: Backbone) -> GapFPN:
    """Builds a GapFPN, with P6 by max pooling, on the network that MODEL.BACKBONE.BOTTOM_UP names."""
    fpn = cfg.MODEL.FPN
    return GapFPN(
        bottom_up,
        fpn.IN_FEATURES,
        fpn.OUT_CHANNELS,
        norm=fpn.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=fpn.FUSE_TYPE,
    )

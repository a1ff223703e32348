"""FPN with two additional high-level context maps, P6 and P7 of RetinaNet (TASCNet, section 3.1.2).

With a detectron2 ResNet, this is the same as detectron2's `build_retinanet_resnet_fpn_backbone`. The two maps are for
the region proposals: MODEL.RPN.IN_FEATURES lists them.
"""

from detectron2.config import CfgNode
from detectron2.modeling.backbone import FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelP6P7

from .pyramid import pyramid


@pyramid
def build_context_fpn_backbone(cfg: CfgNode, bottom_up: Backbone) -> FPN:
    """Builds detectron2's FPN. P6 and P7 are convolutions with stride 2 on the last feature map of `bottom_up`."""
    last = cfg.MODEL.FPN.IN_FEATURES[-1]
    return FPN(
        bottom_up,
        cfg.MODEL.FPN.IN_FEATURES,
        cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelP6P7(bottom_up.output_shape()[last].channels, cfg.MODEL.FPN.OUT_CHANNELS, last),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )

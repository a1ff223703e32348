"""FPN with two additional high-level context maps, P6 and P7 of RetinaNet (TASCNet, section 3.1.2).

On a ResNet of detectron2 this is its `build_retinanet_resnet_fpn_backbone`. The two maps are for the region proposals:
MODEL.RPN.IN_FEATURES lists them.
"""

from detectron2.config import CfgNode
from detectron2.modeling.backbone import FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelP6P7

from .pyramid import pyramid


@pyramid
def build_context_fpn_backbone(cfg: CfgNode, bottom_up: Backbone) -> FPN:
    """detectron2's FPN, with P6 and P7 by convolutions of stride 2 from the last feature map of `bottom_up`."""
    last = cfg.MODEL.FPN.IN_FEATURES[-1]
    return FPN(
        bottom_up,
        cfg.MODEL.FPN.IN_FEATURES,
        cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelP6P7(bottom_up.output_shape()[last].channels, cfg.MODEL.FPN.OUT_CHANNELS, last),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )

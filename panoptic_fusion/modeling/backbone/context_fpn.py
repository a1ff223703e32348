"""FPN with two additional high-level context maps, P6 and P7 of RetinaNet (TASCNet, section 3.1.2), on the narrow
ResNet-18.

For ResNet-50 this is detectron2's `build_retinanet_resnet_fpn_backbone`, which the large configs name. The two maps are
for the region proposals: MODEL.RPN.IN_FEATURES lists them.
"""

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import FPN
from detectron2.modeling.backbone.fpn import LastLevelP6P7

from .narrow_resnet import build_narrow_resnet_backbone


@BACKBONE_REGISTRY.register()
def build_narrow_resnet_context_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """detectron2's FPN on `build_narrow_resnet_backbone`, with P6 and P7 by convolutions of stride 2 from its last
    stage."""
    bottom_up = build_narrow_resnet_backbone(cfg, input_shape)
    last = cfg.MODEL.FPN.IN_FEATURES[-1]
    return FPN(
        bottom_up,
        cfg.MODEL.FPN.IN_FEATURES,
        cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelP6P7(bottom_up.output_shape()[last].channels, cfg.MODEL.FPN.OUT_CHANNELS, last),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )

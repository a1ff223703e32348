"""Feature pyramids on any network: MODEL.BACKBONE.NAME is the pyramid, MODEL.BACKBONE.BOTTOM_UP its bottom-up network.

A pyramid is a function of the config and the bottom-up network, registered by `@pyramid`. A system therefore only names
its pyramid (Panoptic FPN: `build_fpn_backbone`, TASCNet: `build_context_fpn_backbone`, Seamless:
`build_abn_fpn_backbone`) and is the same on ResNet-50, the small networks and any timm model.
"""

from collections.abc import Callable
from functools import wraps

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

from panoptic_fusion.errors import ConfigError

PYRAMIDS: set[str] = set()  # builders that take MODEL.BACKBONE.BOTTOM_UP
DEFORMABLE = "build_deformable_resnet_backbone"  # only network that supports DEFORM_ON_PER_STAGE


def pyramid(make: Callable[[CfgNode, Backbone], Backbone]) -> Callable[[CfgNode, ShapeSpec], Backbone]:
    """Registers `make(cfg, bottom_up)` under its name as a backbone builder, which takes the config and input shape."""

    @wraps(make)
    def build(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
        return make(cfg, build_bottom_up(cfg, input_shape))

    BACKBONE_REGISTRY.register(build)
    PYRAMIDS.add(make.__name__)
    return build


def build_bottom_up(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """Builds the network that MODEL.BACKBONE.BOTTOM_UP names.

    Raises:
        ConfigError: if it does not have a feature map that MODEL.FPN.IN_FEATURES lists, or if it does not support
            deformable stages and MODEL.RESNETS.DEFORM_ON_PER_STAGE enables them.
    """
    if any(cfg.MODEL.RESNETS.DEFORM_ON_PER_STAGE) and cfg.MODEL.BACKBONE.BOTTOM_UP != DEFORMABLE:
        raise ConfigError(
            f"MODEL.RESNETS.DEFORM_ON_PER_STAGE is {list(cfg.MODEL.RESNETS.DEFORM_ON_PER_STAGE)}, which "
            f"MODEL.BACKBONE.BOTTOM_UP {cfg.MODEL.BACKBONE.BOTTOM_UP} does not have here: use {DEFORMABLE}"
        )
    bottom_up = BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.BOTTOM_UP)(cfg, input_shape)
    there = bottom_up.output_shape()
    for name in cfg.MODEL.FPN.IN_FEATURES:
        if name not in there:
            raise ConfigError(
                f"MODEL.FPN.IN_FEATURES has {name!r}, which {cfg.MODEL.BACKBONE.BOTTOM_UP} does not give; available: "
                f"{', '.join(there)}"
            )
    return bottom_up


@pyramid
def build_fpn_backbone(cfg: CfgNode, bottom_up: Backbone) -> FPN:
    """Builds detectron2's FPN, with P6 by max pooling, as `build_resnet_fpn_backbone` does for a ResNet."""
    return FPN(
        bottom_up,
        cfg.MODEL.FPN.IN_FEATURES,
        cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )

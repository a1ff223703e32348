"""Builders of a pyramid together with its network: the names that configs had before MODEL.BACKBONE.BOTTOM_UP, and with
them the config.yaml of models that were trained then."""

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone

from panoptic_fusion.errors import ConfigError

DEFAULT = "build_resnet_backbone"  # MODEL.BACKBONE.BOTTOM_UP of the configs of then, which do not have the key
PAIRS = {
    "build_resnet_gap_fpn_backbone": ("build_gap_fpn_backbone", "build_deformable_resnet_backbone"),
    "build_narrow_resnet_gap_fpn_backbone": ("build_gap_fpn_backbone", "build_narrow_resnet_backbone"),
    "build_narrow_resnet_fpn_backbone": ("build_fpn_backbone", "build_narrow_resnet_backbone"),
    "build_narrow_resnet_context_fpn_backbone": ("build_context_fpn_backbone", "build_narrow_resnet_backbone"),
    "build_abn_resnet_fpn_backbone": ("build_abn_fpn_backbone", "build_abn_resnet_backbone"),
    "build_narrow_abn_resnet_fpn_backbone": ("build_abn_fpn_backbone", "build_narrow_abn_resnet_backbone"),
}


def _register(name: str, pyramid: str, bottom_up: str) -> None:
    def build(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
        if cfg.MODEL.BACKBONE.BOTTOM_UP not in (DEFAULT, bottom_up):
            raise ConfigError(
                f"MODEL.BACKBONE.NAME is {name}, whose network is {bottom_up}: MODEL.BACKBONE.BOTTOM_UP "
                f"{cfg.MODEL.BACKBONE.BOTTOM_UP} goes with MODEL.BACKBONE.NAME {pyramid}"
            )
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.BACKBONE.BOTTOM_UP = bottom_up
        return BACKBONE_REGISTRY.get(pyramid)(cfg, input_shape)

    build.__name__ = name
    BACKBONE_REGISTRY.register(build)


for _name, _pair in PAIRS.items():
    _register(_name, *_pair)

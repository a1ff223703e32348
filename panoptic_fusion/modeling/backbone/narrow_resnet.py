"""ResNet-18 of any width, used by the small configs, which train from scratch on a CPU."""

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import ResNet
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem

BLOCKS = (2, 2, 2, 2)  # number of blocks of ResNet-18 in res2, ..., res5


@BACKBONE_REGISTRY.register()
def build_narrow_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """Builds a ResNet-18 with MODEL.RESNETS.RES2_OUT_CHANNELS channels in res2, doubled in each later stage.

    detectron2's builder only allows 64 channels for ResNet-18. With 64 channels in res2 and in the stem, both networks
    are the same.
    """
    norm, width = cfg.MODEL.RESNETS.NORM, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS
    stem = BasicStem(input_shape.channels, cfg.MODEL.RESNETS.STEM_OUT_CHANNELS, norm)
    stages, channels = [], cfg.MODEL.RESNETS.STEM_OUT_CHANNELS
    for i, num_blocks in enumerate(BLOCKS):
        strides = [1 if i == 0 else 2] + [1] * (num_blocks - 1)
        out = width * 2**i
        stages.append(
            ResNet.make_stage(
                BasicBlock, num_blocks, stride_per_block=strides, in_channels=channels, out_channels=out, norm=norm
            )
        )
        channels = out
    return ResNet(stem, stages, out_features=cfg.MODEL.RESNETS.OUT_FEATURES, freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT)

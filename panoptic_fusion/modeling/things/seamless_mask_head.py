"""Mask head of Seamless Scene Segmentation (section 3.2): convolutions with norm and LeakyReLU, one upsampling.

Shapes: R is the number of regions in all images, T the number of thing classes.
"""

from collections import OrderedDict

from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.roi_heads.mask_head import BaseMaskRCNNHead
from torch import Tensor, nn

from panoptic_fusion.layers import check_norm, get_activated_norm
from panoptic_fusion.layers.activated_norm import ROI_NAMES

LEAKY_GAIN = nn.init.calculate_gain("leaky_relu", 0.01)


@ROI_MASK_HEAD_REGISTRY.register()
class SeamlessMaskHead(BaseMaskRCNNHead):
    """3x3 convolutions, a 2x2 deconvolution of stride 2, each with norm and LeakyReLU, and a 1x1 convolution.

    The layers have detectron2's names (`mask_fcn1`, `deconv`, `predictor`). The norm is InPlaceABN in the published
    models. The paper's text has GroupNorm ("GN", with the published 16 groups).

    Deviations from the published code, whose ground truth is a map of ids: the targets are detectron2's (the instance's
    mask, averaged over each bin, at least one half), and pixels without ground truth count as background.
    """

    @configurable
    def __init__(
        self, *, input_shape: ShapeSpec, num_classes: int, conv_dims: list[int], norm: str = "InPlaceABN", **kwargs
    ):
        """Builds the layers.

        Args:
            input_shape: shape of the pooled features.
            num_classes: T, or 1 for a class-agnostic head.
            conv_dims: output channels of the convolutions and, last, of the deconvolution.
            norm: "InPlaceABN" or "GN", see `get_activated_norm`.
            kwargs: forwarded to BaseMaskRCNNHead.
        """
        super().__init__(**kwargs)
        channels, layers = input_shape.channels, OrderedDict()
        for i, dim in enumerate(conv_dims[:-1], start=1):
            layers[f"mask_fcn{i}"] = Conv2d(channels, dim, 3, padding=1, bias=False, norm=get_activated_norm(norm, dim))
            channels = dim
        layers["deconv"] = nn.ConvTranspose2d(channels, conv_dims[-1], 2, stride=2, bias=False)
        layers["deconv_norm"] = get_activated_norm(norm, conv_dims[-1])
        for name, layer in layers.items():
            if name != "deconv_norm":
                nn.init.xavier_normal_(layer.weight, LEAKY_GAIN)
        layers["predictor"] = nn.Conv2d(conv_dims[-1], num_classes, 1)
        nn.init.xavier_normal_(layers["predictor"].weight, 0.01)
        nn.init.zeros_(layers["predictor"].bias)
        for name, layer in layers.items():
            self.add_module(name, layer)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        """Returns the constructor arguments from a config."""
        head = cfg.MODEL.ROI_MASK_HEAD
        return {
            **super().from_config(cfg, input_shape),
            "input_shape": input_shape,
            "num_classes": 1 if head.CLS_AGNOSTIC_MASK else cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            "conv_dims": [head.CONV_DIM] * (head.NUM_CONV + 1),
            "norm": check_norm("MODEL.ROI_MASK_HEAD.NORM", head.NORM, ROI_NAMES),
        }

    def layers(self, x: Tensor) -> Tensor:
        """Maps (R, C, 14, 14) to (R, T, 28, 28) logits. R may be 0."""
        for layer in self.children():
            x = layer(x)
        return x

"""RoI features by one bilinear sample at the centre of each bin, as Seamless Scene Segmentation takes them.

Shape shorthand: R: regions of all images, C: channels, P: side of the pooled map.
"""

import torch
from detectron2.modeling.poolers import ROIPooler
from torch import Tensor, nn
from torchvision.ops import roi_align


class BinCentreSampler(nn.Module):
    """Samples one feature map at the centres of P x P bins.

    A point p of the image, where pixel k covers [k, k + 1), reads the map at index (p - 0.5) / stride: the centre of
    pixel 0 is the centre of texel 0. (ROIAlignV2 reads p / stride - 0.5.) That is ROIAlignV2 on boxes that are moved by
    half of stride - 1. The published code has (size of the map) / (size of the padded image) for 1 / stride; they are
    equal here, where images are padded to multiples of 32.
    """

    def __init__(self, output_size: tuple[int, int], stride: int):
        super().__init__()
        self.output_size = output_size
        self.stride = stride

    def forward(self, x: Tensor, rois: Tensor) -> Tensor:
        """
        Args:
            x: (N, C, H, W) feature map.
            rois: (R, 5) image index and box (XYXY, pixels of the network's input).

        Returns:
            (R, C, P, P) in the type of `x`.
        """
        dtype = torch.promote_types(x.dtype, torch.float32)  # float16 has no fractions of pixels above 1024
        moved = rois.to(dtype) + rois.new_tensor([0.0] + [0.5 * (self.stride - 1)] * 4, dtype=dtype)
        sampled = roi_align(
            x.to(dtype), moved, self.output_size, spatial_scale=1.0 / self.stride, sampling_ratio=1, aligned=True
        )
        return sampled.to(x.dtype)


class SeamlessROIPooler(ROIPooler):
    """detectron2's ROIPooler with `BinCentreSampler` on each level.

    Boxes go to levels by the usual rule, floor(4 + log2(sqrt(area) / 224)) clamped to those that there are; the paper's
    formula has 224 under the square root by mistake.
    """

    def __init__(self, output_size: int, strides: list[int]):
        """
        Args:
            output_size: P.
            strides: of the feature maps, each twice the one before.
        """
        super().__init__(output_size, [1.0 / s for s in strides], sampling_ratio=1, pooler_type="ROIAlignV2")
        self.level_poolers = nn.ModuleList(BinCentreSampler(self.output_size, s) for s in strides)

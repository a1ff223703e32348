"""RoI pooling of Seamless Scene Segmentation, with one bilinear sample at the center of each bin.

Shapes: R is the number of regions in all images, C the number of channels, P the side of the pooled map.
"""

import torch
from detectron2.modeling.poolers import ROIPooler
from torch import Tensor, nn
from torchvision.ops import roi_align


class BinCenterSampler(nn.Module):
    """Sampler of one feature map at the centers of P x P bins.

    A point p of the image, where pixel k covers [k, k + 1), reads the map at index (p - 0.5) / stride. The center of
    pixel 0 is therefore the center of map element 0. (ROIAlignV2 reads p / stride - 0.5.) This equals ROIAlignV2 on
    boxes that are shifted by half of stride - 1. The published code uses (size of the map) / (size of the padded image)
    for 1 / stride. Both are equal in this project, because images are padded to multiples of 32.
    """

    def __init__(self, output_size: tuple[int, int], stride: int):
        super().__init__()
        self.output_size = output_size
        self.stride = stride

    def forward(self, x: Tensor, rois: Tensor) -> Tensor:
        """Samples the feature map.

        Args:
            x: (N, C, H, W) feature map.
            rois: (R, 5) image index and box (XYXY, pixels of the network's input).

        Returns:
            (R, C, P, P) in the type of `x`.
        """
        dtype = torch.promote_types(x.dtype, torch.float32)  # float16 has no fractions of pixels above 1024
        index, boxes = rois.to(dtype).split([1, 4], dim=1)
        moved = torch.cat([index, boxes + 0.5 * (self.stride - 1)], dim=1)
        sampled = roi_align(
            x.to(dtype), moved, self.output_size, spatial_scale=1.0 / self.stride, sampling_ratio=1, aligned=True
        )
        return sampled.to(x.dtype)


class SeamlessROIPooler(ROIPooler):
    """detectron2's ROIPooler with `BinCenterSampler` on each level.

    Boxes are assigned to levels by the usual rule, floor(4 + log2(sqrt(area) / 224)), clamped to the available levels.
    The paper's formula has 224 under the square root by mistake.
    """

    def __init__(self, output_size: int, strides: list[int]):
        """Builds a sampler per level.

        Args:
            output_size: P, the side of the pooled map.
            strides: strides of the feature maps, each twice the previous one.
        """
        super().__init__(output_size, [1.0 / s for s in strides], sampling_ratio=1, pooler_type="ROIAlignV2")
        self.level_poolers = nn.ModuleList(BinCenterSampler(self.output_size, s) for s in strides)

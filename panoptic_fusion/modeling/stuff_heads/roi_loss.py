"""RoI loss of UPSNet (section 3.1): an additional semantic cross entropy inside the boxes of the instances.

Shapes: N is the batch size, C the number of semantic channels, h x w the resolution of the logits, H x W the padded
network input, R the number of boxes in all images, P the side of a patch.
"""

import torch
from detectron2.modeling.poolers import convert_boxes_to_pooler_format
from detectron2.structures import Boxes
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

PATCH_SIZE = 28  # same as the masks of Mask R-CNN


def sem_seg_roi_loss(
    logits: Tensor, gt_sem_seg: Tensor, boxes: list[Boxes], *, ignore_value: int = 255, patch_size: int = PATCH_SIZE
) -> Tensor:
    """Returns the cross entropy of the semantic logits on patches of all ground-truth boxes.

    Each box has the same weight regardless of its size, so small things have more weight than in the loss of the whole
    image. As in the published code, RoIAlign crops and resizes the logits in one step, and pixels of a patch without
    ground truth count as 0 in its mean instead of being excluded. The published code uses one image per process and
    skips images without things. This project averages over the images, and an image without things counts as 0.

    Deviation: boxes of the published code end at their last pixel. Both crops leave it out, so the last row and column
    are missing. In this project box ends are exclusive, as everywhere in detectron2, and the crops are complete.

    Args:
        logits: (N, C, h, w) float. Half precision is converted to float32.
        gt_sem_seg: (N, H, W) int64 channels or `ignore_value`; H / h = W / w is the stride of the logits.
        boxes: ground-truth boxes of each image, in pixels of the network's input.
        patch_size: P, the side of a patch.

    Returns:
        A scalar, 0 with a gradient if there are no boxes.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    rois = convert_boxes_to_pooler_format(boxes).to(logits.dtype)
    scale = logits.shape[-1] / gt_sem_seg.shape[-1]
    patches = roi_align(logits, rois, patch_size, spatial_scale=scale, sampling_ratio=2, aligned=False)
    labels = label_patches(gt_sem_seg, rois, patch_size)
    loss = F.cross_entropy(patches, labels, ignore_index=ignore_value, reduction="none").mean((1, 2))
    share = [1 / (len(boxes) * len(x)) for x in boxes for _ in range(len(x))]
    return (loss * loss.new_tensor(share)).sum()


def label_patches(labels: Tensor, rois: Tensor, patch_size: int) -> Tensor:
    """Crops label maps and resizes the crops by nearest neighbor.

    A crop extends from the rounded upper left corner to the rounded lower right corner (exclusive). It is at least one
    pixel wide and high. Pixel i of P of a patch reads pixel floor(i * side / P) of the crop. Boxes are first clipped to
    the map.

    Args:
        labels: (N, H, W) int64.
        rois: (R, 5) float, index of the image, then XYXY in pixels of `labels`.
        patch_size: P, the side of a patch.

    Returns:
        (R, P, P) int64.
    """
    size = torch.tensor(labels.shape[:0:-1], device=labels.device)  # (W, H)
    image, corners = rois[:, 0].long(), rois[:, 1:].round().long()
    start = torch.minimum(corners[:, :2].clamp(min=0), size - 1)
    end = torch.maximum(torch.minimum(corners[:, 2:], size), start + 1)
    steps = torch.arange(patch_size, device=labels.device)
    x, y = (start[..., None] + steps * (end - start)[..., None] // patch_size).unbind(1)  # (R, P) each
    return labels[image[:, None, None], y[:, :, None], x[:, None, :]]

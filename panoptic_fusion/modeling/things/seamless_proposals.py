"""Selection of proposals jointly over the pyramid's levels: as Seamless Scene Segmentation does it (section 3.5)."""

import torch
from detectron2.structures import Boxes
from torch import Tensor
from torchvision.ops import nms


def nms_threshold(threshold: float) -> float:
    """What to give torchvision's NMS, which suppresses above its threshold, to suppress at `threshold` and above."""
    as_float32 = torch.tensor(threshold, dtype=torch.float32)
    return float(torch.nextafter(as_float32, as_float32.new_tensor(-1.0)))


def select_proposals(
    boxes: Tensor,
    logits: Tensor,
    image_size: tuple[int, int],
    *,
    pre_nms_topk: int,
    post_nms_topk: int,
    nms_thresh: float,
) -> tuple[Tensor, Tensor]:
    """The proposals of one image from the boxes of all levels together.

    The `pre_nms_topk` highest logits stay, whatever level they come from, their boxes are clipped to the image, boxes
    that overlap a higher one with IoU `nms_thresh` or more are dropped, again whatever their level, and the first
    `post_nms_topk` stay. (detectron2 does the first two steps for each level on its own.) Boxes without an area, such
    as those that lay outside of the image, are kept like all others; detectron2 drops them. Boxes or logits that are
    not finite are dropped after the first step.

    Args:
        boxes: (K, 4) float, XYXY in pixels, of all levels.
        logits: (K,) float.
        image_size: (height, width) of the image before padding.

    Returns:
        (P, 4) boxes and (P,) logits in float32, by descending logit; P <= post_nms_topk.
    """
    logits, index = logits.float().topk(min(pre_nms_topk, len(logits)))
    boxes = boxes[index].float()
    finite = boxes.isfinite().all(dim=1) & logits.isfinite()
    boxes, logits = boxes[finite], logits[finite]
    clipped = Boxes(boxes)
    clipped.clip(image_size)
    keep = nms(clipped.tensor, logits, nms_threshold(nms_thresh))[:post_nms_topk]
    return clipped.tensor[keep], logits[keep]

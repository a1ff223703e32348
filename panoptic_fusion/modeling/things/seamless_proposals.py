"""Joint selection of proposals over all pyramid levels, as in the published code of Seamless Scene Segmentation.

The paper (section 3.5) only says that proposals are filtered by NMS.
"""

import torch
from detectron2.structures import Boxes
from torch import Tensor
from torchvision.ops import nms

from panoptic_fusion.layers import at_most


def nms_threshold(threshold: float) -> float:
    """Returns the value for torchvision's NMS (which suppresses above it) that suppresses at `threshold` and above."""
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
    """Selects the proposals of one image from the boxes of all levels together.

    The `pre_nms_topk` highest logits of all levels are kept, and their boxes are clipped to the image. Boxes of any
    level are dropped if their IoU with a higher-scoring box is `nms_thresh` or more. The first `post_nms_topk` of the
    rest are kept. (detectron2 performs the first two steps for each level separately.) Boxes without an area, such as
    boxes outside the image, are kept; detectron2 drops them. Non-finite boxes or logits are dropped after the first
    step.

    Args:
        boxes: (K, 4) float, XYXY in pixels, of all levels.
        logits: (K,) float.
        image_size: (height, width) of the image before padding.

    Returns:
        (P, 4) boxes and (P,) logits in float32, by descending logit; P <= post_nms_topk.
    """
    logits, index = logits.float().topk(at_most(logits.shape[0], pre_nms_topk))
    boxes = boxes[index].float()
    finite = boxes.isfinite().all(dim=1) & logits.isfinite()
    boxes, logits = boxes[finite], logits[finite]
    clipped = Boxes(boxes)
    clipped.clip(image_size)
    keep = first_of_nms(clipped.tensor, logits, post_nms_topk, nms_threshold(nms_thresh))
    return clipped.tensor[keep], logits[keep]


def first_of_nms(boxes: Tensor, scores: Tensor, number: int, threshold: float) -> Tensor:
    """Returns `nms(boxes, scores, threshold)[:number]` for boxes by descending score.

    Suppression only depends on boxes with higher scores, so the first boxes are processed until enough are kept. The
    time of NMS is the product of the numbers of kept and of all boxes.

    Args:
        boxes: (K, 4) float, XYXY, by descending score.
        scores: (K,) float.
        number: number of boxes to keep.
        threshold: boxes are dropped if their IoU with a kept box is above it.

    Returns:
        (P,) int64 indices, P <= number.
    """
    kept = torch.zeros(0, dtype=torch.int64, device=boxes.device)
    end = 0
    while end < len(boxes) and len(kept) < number:
        start, end = end, min(max(2 * end, 2 * number), len(boxes))
        candidates = torch.cat([kept, torch.arange(start, end, device=boxes.device)])
        kept = candidates[nms(boxes[candidates], scores[candidates], threshold)]
    return kept[:number]

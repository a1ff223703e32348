"""Labeling of anchors as positive, negative or unused in training, by the rules of Seamless Scene Segmentation."""

import torch
from detectron2.structures import Boxes, pairwise_iou
from torch import Tensor

MAX_IOU_ELEMENTS = 2**24  # size of the part of the IoU matrix that is in memory at a time


def match_anchors(
    anchors: Tensor, gt_boxes: Tensor, image_size: tuple[int, int], *, low: float = 0.3, high: float = 0.7
) -> tuple[Tensor, Tensor]:
    """Labels the anchors of one image.

    An anchor that is not entirely inside the image is not used. Any other anchor is positive if its largest IoU is
    `high` or more, negative if it is below `low`, and otherwise not used. Then the anchor with the largest overlap with
    each ground-truth box (the first of several, if there is any overlap) becomes positive and is matched with that box.
    If two boxes have the same best anchor, the one with the larger overlap is matched, then the first. (detectron2
    makes all of several such anchors positive, keeps their match with the box that they overlap most, and uses anchors
    that extend beyond the image.)

    Deviation from the published code: anchors on crowd regions are not excluded, because crowd regions are not part of
    the ground truth in this project. As in detectron2, they are background to the detection branch.

    Args:
        anchors: (K, 4) float, XYXY in pixels.
        gt_boxes: (M, 4) float, XYXY in pixels; M may be 0.
        image_size: (height, width) of the image before padding.
        low, high: IoU thresholds.

    Returns:
        labels (K,) int8: 1 positive, 0 negative, -1 not used; and (K,) int64, the row of the box matched with each
        anchor (undefined unless positive).
    """
    height, width = image_size
    inside = (anchors[:, :2] >= 0).all(1) & (anchors[:, 2] <= width) & (anchors[:, 3] <= height)
    labels = inside.to(torch.int8) - 1
    matched = torch.zeros(len(anchors), dtype=torch.int64, device=anchors.device)
    num_gt = len(gt_boxes)
    if num_gt == 0 or len(anchors) == 0:
        return labels, matched

    # Not K x M at once, which would be gigabytes for large images: only the best of each row and column is needed.
    largest = anchors.new_zeros(len(anchors))
    best_iou = anchors.new_zeros(num_gt)
    best_anchor = torch.zeros(num_gt, dtype=torch.int64, device=anchors.device)
    step = max(1, MAX_IOU_ELEMENTS // num_gt)
    for start in range(0, len(anchors), step):
        part = slice(start, start + step)
        iou = pairwise_iou(Boxes(gt_boxes), Boxes(anchors[part])) * inside[part]
        largest[part], matched[part] = iou.max(dim=0)
        iou, anchor = iou.max(dim=1)
        better = iou > best_iou
        best_iou = torch.where(better, iou, best_iou)
        best_anchor = torch.where(better, anchor + start, best_anchor)
    labels = torch.where(inside & (largest >= low), -1, labels)
    labels = torch.where(inside & (largest >= high), 1, labels)

    row = torch.arange(num_gt, device=anchors.device)
    same = best_anchor[:, None] == best_anchor[None, :]
    ahead = (best_iou[None, :] > best_iou[:, None]) | (
        (best_iou[None, :] == best_iou[:, None]) & (row[None, :] < row[:, None])
    )
    gets_it = (best_iou > 0) & ~(same & ahead).any(dim=1)
    labels[best_anchor[gets_it]] = 1
    matched[best_anchor[gets_it]] = row[gets_it]
    return labels, matched

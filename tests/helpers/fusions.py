"""Fusions and instances for their tests."""

import torch
from detectron2.structures import BitMasks, Boxes, Instances

from panoptic_fusion.data.label_space import LabelSpace
from panoptic_fusion.modeling.fusion import UPSNetFusion

COCO, CITYSCAPES, TINY = (53, 80), (11, 8), (2, 2)  # S, T


def upsnet_fusion(num_stuff=2, num_things=2, limit=0, confidence=0.6, overlap=0.3, **kwargs):
    categories = [
        {"id": i + 1, "name": f"c{i}", "isthing": int(i < num_things), "color": [i % 256, i // 256, 1]}
        for i in range(num_things + num_stuff)
    ]
    kwargs.setdefault("ontology", "full")
    return UPSNetFusion(
        label_space=LabelSpace.from_categories(categories),
        instances_confidence_thresh=confidence,
        overlap_thresh=overlap,
        stuff_area_limit=limit,
        **kwargs,
    )


def instances_of(masks, scores, classes=None):
    num = len(masks)
    return Instances(
        tuple(masks.shape[1:]),
        pred_boxes=BitMasks(masks).get_bounding_boxes() if num else Boxes(torch.zeros(0, 4)),
        scores=torch.as_tensor(scores, dtype=torch.float32),
        pred_classes=torch.zeros(num, dtype=torch.int64) if classes is None else classes,
        pred_masks=masks,
    )

"""Where a model loses panoptic quality: its predictions with parts of them replaced by ground truth (UPSNet, table 6).

Three parts can be replaced, alone or together:

- "box": the instances are those of the ground-truth boxes, as they are in the network's input (no regression, no NMS).
  The box head classifies each; its most probable thing class and that probability are class and score. The mask head
  runs on the box. The fusion's score threshold applies, so a box that the box head doubts is lost: the paper's "GT
  boxes along with our predicted class probabilities".
- "class": with "box", class and score (1) are the truth; the box head's probability of the class only decides the
  order of the instances. Without "box", a predicted instance takes the class of the ground-truth box that it overlaps
  most, if by an IoU of 0.5 or more, and keeps its score. The mask is that of the new class. In both cases UPSNet's
  class assignment, which may make an instance stuff, is off.
- "seg": the semantic logits are those of the ground truth, at the size of the network's input (the paper: what remains
  is lost by resizing). Where it has none (void; things in the ontology "stuff") the model's own stay.

Masks are always the model's. The rest is the model's own inference, with its fusion.

The paper says neither which score a ground-truth box gets nor what logits ground truth gives; the above is our reading.
Ground truth is that of training: crowds and things that vanish in the resized image give no box.

Shape shorthand: N: images, C: semantic channels, H, W: size of the padded network input, R_i: boxes of image i.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from detectron2.structures import ImageList, Instances, pairwise_iou
from torch import Tensor, nn
from torch.nn import functional as F

from ..networks import IndependentPanoptic, PanopticRCNN
from ..networks.inference import run_heads

PARTS = ("box", "class", "seg")
# The rows of the study: the model, then as the paper's table, then what it lacks.
ROWS = ((), ("box",), ("box", "class"), ("seg",), ("class",), ("box", "class", "seg"))
MATCH_IOU = 0.5
# The logit of the true channel, all others being 0: more than any mask logit, which UPSNet adds, can outweigh.
CERTAIN = 100.0


def oracle_outputs(
    model: PanopticRCNN | IndependentPanoptic, batched_inputs: list[dict]
) -> dict[tuple[str, ...], list[dict]]:
    """The outputs of a model for each row of the study. The network (or each of the two) runs once, not once a row.

    Args:
        model: in eval mode.
        batched_inputs: as in inference, with `sem_seg` (h, w) int64 and `instances` (gt_boxes, gt_classes) of the
            resized image, as in training.

    Returns:
        For each of `ROWS`, what `model(batched_inputs)` returns with these parts replaced.
    """
    network, semantic = (getattr(model, f"{task}_network", model) for task in ("instance", "semantic"))
    heads = run_heads(network, batched_inputs, sem_seg=semantic is network)
    own = heads if semantic is network else run_heads(semantic, batched_inputs, instances=False)
    features, detections, logits = heads.features, heads.instances, own.sem_seg_logits
    targets = [x["instances"].to(network.device) for x in batched_inputs]
    instances = {
        (): detections,
        ("box",): instances_on_boxes(network.roi_heads, features, targets, known_classes=False),
        ("class",): with_matched_classes(network.roi_heads, features, detections, targets),
        ("box", "class"): instances_on_boxes(network.roi_heads, features, targets, known_classes=True),
    }
    labels = [x["sem_seg"].to(semantic.device) for x in batched_inputs]
    ignore_value = semantic.sem_seg_head.ignore_value
    divisibility, constraints = semantic.backbone.size_divisibility, semantic.backbone.padding_constraints
    gt_sem_seg = ImageList.from_tensors(labels, divisibility, ignore_value, constraints).tensor
    gt_logits = ground_truth_logits(logits, gt_sem_seg, ignore_value)

    outputs = {}
    for row in ROWS:
        given = {
            network.backbone: features,
            semantic.backbone: own.features,
            semantic.sem_seg_head: gt_logits if "seg" in row else logits,
            network.proposal_generator: (heads.proposals, {}),
            network.roi_heads: (instances[tuple(part for part in row if part != "seg")], {}),
        }
        with returning(given), trusted_classes(model.fusion, "class" in row):
            outputs[row] = model(batched_inputs)
    return outputs


def instances_on_boxes(
    roi_heads: nn.Module, features: Mapping[str, Tensor], targets: list[Instances], *, known_classes: bool
) -> list[Instances]:
    """What RoI heads say about ground-truth boxes.

    Args:
        roi_heads: PanopticROIHeads in eval mode.
        features: the backbone's feature maps.
        targets: N Instances with gt_boxes (R_i) in pixels of the network's input, and gt_classes (R_i,).
        known_classes: whether classes are those of the ground truth, with score 1.

    Returns:
        N Instances with pred_boxes, pred_classes, scores and pred_mask_logits, by descending probability of the class.
    """
    pooled = roi_heads.box_pooler([features[f] for f in roi_heads.box_in_features], [x.gt_boxes for x in targets])
    predictions = roi_heads.box_predictor(roi_heads.box_head(pooled))
    instances = []
    for target, probabilities in zip(targets, roi_heads.box_predictor.predict_probs(predictions, targets), strict=True):
        probability, classes = probabilities[:, :-1].max(dim=1)  # the last one is the background's
        if known_classes:
            classes = target.gt_classes
            probability = probabilities.gather(1, classes[:, None])[:, 0]
        order = probability.argsort(descending=True, stable=True)
        found = Instances(target.image_size, pred_boxes=target.gt_boxes[order], pred_classes=classes[order])
        found.scores = torch.ones_like(probability) if known_classes else probability[order]
        instances.append(found)
    return roi_heads.forward_with_given_boxes(features, instances)


def with_matched_classes(
    roi_heads: nn.Module, features: Mapping[str, Tensor], detections: list[Instances], targets: list[Instances]
) -> list[Instances]:
    """Predicted instances with the classes, and the masks of the classes, of the ground truth that they overlap most.

    Those without a ground-truth box at IoU >= `MATCH_IOU` are left as they are. Arguments as of `instances_on_boxes`.
    """
    changed = []
    for found, target in zip(detections, targets, strict=True):
        found = Instances(found.image_size, **found.get_fields())  # the caller's stays as it is
        if len(target):
            iou, index = pairwise_iou(found.pred_boxes, target.gt_boxes).max(dim=1)
            found.pred_classes = torch.where(iou >= MATCH_IOU, target.gt_classes[index], found.pred_classes)
        changed.append(found)
    return roi_heads.forward_with_given_boxes(features, changed)


def ground_truth_logits(logits: Tensor, gt_sem_seg: Tensor, ignore_value: int = 255) -> Tensor:
    """Semantic logits of the ground truth.

    Args:
        logits: (N, C, h, w) float, the model's; they are upsampled bilinearly where there is no ground truth.
        gt_sem_seg: (N, H, W) int64 channels or `ignore_value`.

    Returns:
        (N, C, H, W) float32: `CERTAIN` in the true channel, 0 in all others.
    """
    known = gt_sem_seg != ignore_value
    own = F.interpolate(logits.float(), size=gt_sem_seg.shape[-2:], mode="bilinear", align_corners=False)
    own.masked_fill_(known[:, None], 0)
    return own.scatter_add_(1, (gt_sem_seg * known)[:, None], CERTAIN * known[:, None].float())


@contextlib.contextmanager
def returning(values: Mapping[nn.Module, Any]) -> Iterator[None]:
    """Lets modules return given values, whatever they are called with; afterwards they are as before."""
    before = {module: module.forward for module in values if "forward" in vars(module)}
    try:
        for module, value in values.items():
            module.forward = lambda *args, value=value, **kwargs: value
        yield
    finally:
        for module in values:
            del module.forward
        for module, forward in before.items():
            module.forward = forward


@contextlib.contextmanager
def trusted_classes(fusion: nn.Module, trusted: bool) -> Iterator[None]:
    """If `trusted`, a fusion that assigns classes leaves them (`UPSNetFusion.trust_classes`); then it is as before."""
    before = getattr(fusion, "trust_classes", None)
    if before is None or not trusted:
        yield
        return
    fusion.trust_classes = True
    try:
        yield
    finally:
        fusion.trust_classes = before

"""Oracle predictions of a model: parts of its predictions are replaced by ground truth (UPSNet, table 6).

Three parts can be replaced, alone or together:

- "box": there is one instance per ground-truth box, at the resolution of the network's input (no regression, no NMS).
  The box head classifies each box. The most probable thing class and its probability become class and score. The mask
  head runs on the box. The fusion's score threshold applies, so boxes that the box head scores low are removed: the
  paper's "GT boxes along with our predicted class probabilities".
- "class": with "box", the class is the ground truth and the score is 1; the box head's probability of the class only
  decides the order of the instances. Without "box", a predicted instance takes the class of the ground-truth box that
  it overlaps most, if their IoU is 0.5 or more, and keeps its score. The mask of the new class is used. In both cases
  UPSNet's class assignment, which may turn an instance into stuff, is disabled.
- "seg": the semantic logits are replaced by the ground truth, at the resolution of the network's input (according to
  the paper, the remaining loss is caused by resizing). Pixels without ground truth (void; things in the ontology
  "stuff") keep the model's logits.

Masks always come from the model. Everything else is the model's inference, including its fusion.

The paper does not specify the score of a ground-truth box or the logits of the ground truth; the above is our choice.
Ground truth is the same as during training: crowds and things that vanish in the resized image have no box.

Shapes: N is the number of images, C the number of semantic channels, (H, W) the size of the padded network input, and
R_i the number of boxes of image i.
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
# Rows of the study: the model, the rows of the paper's table, then rows that the paper does not have.
ROWS = ((), ("box",), ("box", "class"), ("seg",), ("class",), ("box", "class", "seg"))
MATCH_IOU = 0.5
# Logit of the ground-truth channel; all others are 0. No mask logit, which UPSNet adds, can outweigh it.
GT_LOGIT = 100.0


def oracle_outputs(
    model: PanopticRCNN | IndependentPanoptic, batched_inputs: list[dict]
) -> dict[tuple[str, ...], list[dict]]:
    """Returns the outputs of a model for each row of the study.

    The network (or each of the two networks) runs once, not once per row.

    Args:
        model: model in eval mode.
        batched_inputs: inputs as in inference, with `sem_seg` (h, w) int64 and `instances` (gt_boxes, gt_classes) of
            the resized image as in training.

    Returns:
        The output of `model(batched_inputs)` for each of `ROWS`, with its parts replaced.
    """
    network, semantic = (getattr(model, f"{task}_network", model) for task in ("instance", "semantic"))
    heads = run_heads(network, batched_inputs, sem_seg=semantic is network)
    own = heads if semantic is network else run_heads(semantic, batched_inputs, instances=False)
    features, detections, logits = heads.features, heads.instances, own.sem_seg_logits
    targets = [x["instances"].to(network.device) for x in batched_inputs]
    instances = {
        (): detections,
        ("box",): predict_on_gt_boxes(network.roi_heads, features, targets, known_classes=False),
        ("class",): replace_with_gt_classes(network.roi_heads, features, detections, targets),
        ("box", "class"): predict_on_gt_boxes(network.roi_heads, features, targets, known_classes=True),
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
        with override_forward(given), keep_instance_classes(model.fusion, "class" in row):
            outputs[row] = model(batched_inputs)
    return outputs


def predict_on_gt_boxes(
    roi_heads: nn.Module, features: Mapping[str, Tensor], targets: list[Instances], *, known_classes: bool
) -> list[Instances]:
    """Runs the RoI heads on ground-truth boxes.

    Args:
        roi_heads: PanopticROIHeads in eval mode.
        features: feature maps of the backbone.
        targets: N Instances with gt_boxes (R_i) in pixels of the network's input, and gt_classes (R_i,).
        known_classes: whether to use the ground-truth classes, with score 1.

    Returns:
        N Instances with pred_boxes, pred_classes, scores and pred_mask_logits, by descending probability of the class.
    """
    pooled = roi_heads.box_pooler([features[f] for f in roi_heads.box_in_features], [x.gt_boxes for x in targets])
    predictions = roi_heads.box_predictor(roi_heads.box_head(pooled))
    instances = []
    for target, probabilities in zip(targets, roi_heads.box_predictor.predict_probs(predictions, targets), strict=True):
        probability, classes = probabilities[:, :-1].max(dim=1)  # the last channel is the background
        if known_classes:
            classes = target.gt_classes
            probability = probabilities.gather(1, classes[:, None])[:, 0]
        order = probability.argsort(descending=True, stable=True)
        found = Instances(target.image_size, pred_boxes=target.gt_boxes[order], pred_classes=classes[order])
        found.scores = torch.ones_like(probability) if known_classes else probability[order]
        instances.append(found)
    return roi_heads.forward_with_given_boxes(features, instances)


def replace_with_gt_classes(
    roi_heads: nn.Module, features: Mapping[str, Tensor], detections: list[Instances], targets: list[Instances]
) -> list[Instances]:
    """Gives predicted instances the class, and the mask of that class, of the ground truth they overlap most.

    Instances without a ground-truth box at IoU >= `MATCH_IOU` keep their class. See `predict_on_gt_boxes` for the
    arguments.
    """
    changed = []
    for found, target in zip(detections, targets, strict=True):
        found = Instances(found.image_size, **found.get_fields())  # leave the caller's instances unchanged
        if len(target):
            iou, index = pairwise_iou(found.pred_boxes, target.gt_boxes).max(dim=1)
            found.pred_classes = torch.where(iou >= MATCH_IOU, target.gt_classes[index], found.pred_classes)
        changed.append(found)
    return roi_heads.forward_with_given_boxes(features, changed)


def ground_truth_logits(logits: Tensor, gt_sem_seg: Tensor, ignore_value: int = 255) -> Tensor:
    """Returns the semantic logits of the ground truth.

    Args:
        logits: (N, C, h, w) float logits of the model, upsampled bilinearly for pixels without ground truth.
        gt_sem_seg: (N, H, W) int64 channels or `ignore_value`.

    Returns:
        (N, C, H, W) float32: `GT_LOGIT` in the ground-truth channel, 0 in all others.
    """
    known = gt_sem_seg != ignore_value
    own = F.interpolate(logits.float(), size=gt_sem_seg.shape[-2:], mode="bilinear", align_corners=False)
    own.masked_fill_(known[:, None], 0)
    return own.scatter_add_(1, (gt_sem_seg * known)[:, None], GT_LOGIT * known[:, None].float())


@contextlib.contextmanager
def override_forward(values: Mapping[nn.Module, Any]) -> Iterator[None]:
    """Makes modules return given values inside the context, whatever their inputs, and restores them afterwards."""
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
def keep_instance_classes(fusion: nn.Module, trusted: bool) -> Iterator[None]:
    """Makes a fusion keep the instance classes inside the context, if `trusted` (see `UPSNetFusion`)."""
    before = getattr(fusion, "keep_instance_classes", None)
    if before is None or not trusted:
        yield
        return
    fusion.keep_instance_classes = True
    try:
        yield
    finally:
        fusion.keep_instance_classes = before

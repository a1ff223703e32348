"""Region proposal branch of Seamless Scene Segmentation (section 3.2).

It is detectron2's RPN with an activated norm in its head, joint selection over the levels, and other anchor rules.

Shapes: N is the batch size, A the number of anchors per position, K the number of anchors of all levels and positions.
"""

from functools import partial

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling import PROPOSAL_GENERATOR_REGISTRY, RPN_HEAD_REGISTRY
from detectron2.modeling.proposal_generator.rpn import RPN, StandardRPNHead
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import get_event_storage
from fvcore.nn import smooth_l1_loss
from torch import Tensor, nn
from torch.nn import functional as F

from panoptic_fusion.errors import ConfigError
from panoptic_fusion.layers import check_norm, get_activated_norm

from .seamless_anchors import match_anchors
from .seamless_proposals import select_proposals

LEAKY_GAIN = nn.init.calculate_gain("leaky_relu", 0.01)


@RPN_HEAD_REGISTRY.register()
class SeamlessRPNHead(StandardRPNHead):
    """3x3 convolution with activated norm, then 1x1 convolutions for objectness and deltas, shared by all levels.

    The 3x3 convolution has stride 1, although the paper's text says 2. Only stride 1 matches its 0.514 TFLOP. In
    training, each level is normalized by its own statistics. The running statistics mix all levels.
    """

    @configurable
    def __init__(self, *, in_channels: int, num_anchors: int, norm: str = "InPlaceABN"):
        """Builds the layers.

        Args:
            in_channels: number of channels of each feature map and of the hidden layer.
            num_anchors: A, the number of anchors per position.
            norm: name of the norm, see `get_activated_norm`.
        """
        super().__init__(in_channels=in_channels, num_anchors=num_anchors)
        self.conv = Conv2d(
            in_channels, in_channels, 3, padding=1, bias=False, norm=get_activated_norm(norm, in_channels)
        )
        nn.init.xavier_normal_(self.conv.weight, LEAKY_GAIN)
        nn.init.xavier_normal_(self.objectness_logits.weight, 0.01)
        nn.init.xavier_normal_(self.anchor_deltas.weight, 0.01)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: list[ShapeSpec]) -> dict:
        """Returns the constructor arguments from a config."""
        base = super().from_config(cfg, input_shape)
        return {
            "in_channels": base["in_channels"],
            "num_anchors": base["num_anchors"],
            "norm": check_norm("MODEL.RPN.NORM", cfg.MODEL.RPN.NORM),
        }


@PROPOSAL_GENERATOR_REGISTRY.register()
class SeamlessRPN(RPN):
    """detectron2's RPN with `select_proposals`, `match_anchors` and losses over the anchors that were sampled.

    PRE_NMS_TOPK and POST_NMS_TOPK are numbers per image, over all levels together.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Returns the constructor arguments from a config."""
        rpn = cfg.MODEL.RPN
        for key, value, needed in (
            ("RPN.BBOX_REG_LOSS_TYPE", rpn.BBOX_REG_LOSS_TYPE, "smooth_l1"),
            ("RPN.IOU_LABELS", list(rpn.IOU_LABELS), [0, -1, 1]),
            ("PROPOSAL_GENERATOR.MIN_SIZE", cfg.MODEL.PROPOSAL_GENERATOR.MIN_SIZE, 0),
        ):
            if value != needed:
                raise ConfigError(f"MODEL.{key} is {value!r}; SeamlessRPN needs {needed!r}")
        low, high = rpn.IOU_THRESHOLDS
        return {**super().from_config(cfg, input_shape), "anchor_matcher": partial(match_anchors, low=low, high=high)}

    @torch.no_grad()
    def label_and_sample_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Labels the anchors and samples them for training.

        Returns:
            For each image (K,) int8 labels, 1, 0 or -1 (not sampled), and (K, 4) the boxes matched with the anchors.
        """
        anchors = Boxes.cat(anchors).tensor
        labels, boxes = [], []
        for x in gt_instances:
            gt_boxes = x.gt_boxes.tensor
            image_labels, matched = self.anchor_matcher(anchors, gt_boxes, x.image_size)
            labels.append(self._subsample_labels(image_labels))
            boxes.append(gt_boxes[matched] if len(gt_boxes) else torch.zeros_like(anchors))
        return labels, boxes

    def losses(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[Tensor],
        gt_labels: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        gt_boxes: list[Tensor],
    ) -> dict[str, Tensor]:
        """Returns the binary cross entropy over the sampled anchors and the smooth L1 loss over the positive ones.

        Both are summed and divided by the number of sampled anchors of the whole batch (at least 1). The arguments are
        described in detectron2's RPN.
        """
        labels = torch.stack(gt_labels)
        logits, deltas = torch.cat(pred_objectness_logits, dim=1), torch.cat(pred_anchor_deltas, dim=1)
        sampled = labels >= 0
        count = sampled.sum().clamp(min=1)
        objectness = F.binary_cross_entropy_with_logits(
            logits[sampled].float(), labels[sampled].float(), reduction="sum"
        )
        image, anchor = (labels == 1).nonzero(as_tuple=True)
        targets = self.box2box_transform.get_deltas(
            Boxes.cat(anchors).tensor[anchor], torch.stack(gt_boxes)[image, anchor]
        )
        location = smooth_l1_loss(deltas[image, anchor].float(), targets, beta=self.smooth_l1_beta, reduction="sum")
        storage = get_event_storage()
        storage.put_scalar("rpn/num_pos_anchors", len(image) / len(labels))
        storage.put_scalar("rpn/num_neg_anchors", (int(count) - len(image)) / len(labels))
        losses = {"loss_rpn_cls": objectness / count, "loss_rpn_loc": location / count}
        return {name: loss * self.loss_weight.get(name, 1.0) for name, loss in losses.items()}

    @torch.no_grad()
    def predict_proposals(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        image_sizes: list[tuple[int, int]],
    ) -> list[Instances]:
        """Predicts the proposals of each image.

        Args:
            anchors, pred_objectness_logits, pred_anchor_deltas: values of each level, see detectron2's RPN.
            image_sizes: sizes of the images before padding.

        Returns:
            For each image its proposals by descending score: `proposal_boxes`, `objectness_logits`.

        Raises:
            FloatingPointError: if a prediction is non-finite in training.
        """
        logits = torch.cat(pred_objectness_logits, dim=1)
        boxes = torch.cat(self._decode_proposals(anchors, pred_anchor_deltas), dim=1)
        if self.training and not (boxes.isfinite().all() & logits.isfinite().all()):
            raise FloatingPointError("Predicted boxes or scores contain Inf/NaN. Training has diverged.")
        results = []
        for image_boxes, image_logits, image_size in zip(boxes, logits, image_sizes, strict=True):
            selected, scores = select_proposals(
                image_boxes,
                image_logits,
                image_size,
                pre_nms_topk=self.pre_nms_topk[self.training],
                post_nms_topk=self.post_nms_topk[self.training],
                nms_thresh=self.nms_thresh,
            )
            results.append(Instances(image_size, proposal_boxes=Boxes(selected), objectness_logits=scores))
        return results

"""Mask R-CNN's RoI heads that pass their mask logits to the fusion.

Shapes: R is the number of regions in all images of the batch, R_i in image i, T the number of thing classes, M the side
of a mask (28).
"""

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, StandardROIHeads
from detectron2.modeling.roi_heads.mask_head import mask_rcnn_loss
from detectron2.modeling.roi_heads.roi_heads import select_foreground_proposals
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor

from .box_convention import BOX_CONVENTIONS, InclusiveBoxPredictor, pool_to_last_pixel
from .indexed_masks import IndexedMasks


@ROI_HEADS_REGISTRY.register()
class PanopticROIHeads(StandardROIHeads):
    """detectron2's StandardROIHeads whose mask logits stay available.

    In training, it returns the positive proposals with their `mask_logits`, so that a fusion can use them without a
    second forward pass of the mask head. At inference, instances have `pred_mask_logits` (R_i, M, M), the raw logits of
    the predicted class, instead of `pred_masks`. The meta-architecture pastes masks only on request.
    """

    box_conventions: tuple[str, ...] = BOX_CONVENTIONS  # values of MODEL.BOX_CONVENTION that it can have

    @configurable
    def __init__(self, *, mask_head_on_all_regions: bool = False, **kwargs):
        """
        Args:
            mask_head_on_all_regions: whether training runs the mask head on all sampled regions and then selects the
                positive ones, so that the statistics of its norms cover all regions.
            kwargs: forwarded to `StandardROIHeads`.
        """
        super().__init__(**kwargs)
        self.mask_head_on_all_regions = mask_head_on_all_regions

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Returns the constructor arguments from a config."""
        on_all = cfg.MODEL.ROI_MASK_HEAD.RUN_ON_ALL_REGIONS
        return {**super().from_config(cfg, input_shape), "mask_head_on_all_regions": on_all}

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        parts = super()._init_box_head(cfg, input_shape)
        if cfg.MODEL.BOX_CONVENTION == "inclusive":
            pool_to_last_pixel(parts["box_pooler"])
            parts["box_predictor"] = InclusiveBoxPredictor(cfg, parts["box_head"].output_shape)
        return parts

    @classmethod
    def _init_mask_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        parts = super()._init_mask_head(cfg, input_shape)
        if cfg.MODEL.BOX_CONVENTION == "inclusive" and parts:
            pool_to_last_pixel(parts["mask_pooler"])
        return parts

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Runs the box head and the mask head.

        Returns:
            In training, the positive proposals of each image (`proposal_boxes`, `gt_classes`, `gt_masks`
            (IndexedMasks) if the image has any, `mask_logits` (R_i, M, M) float of the ground-truth class), and the
            losses.
            At inference, the instances of each image and an empty dict.
        """
        if not self.training:
            return super().forward(images, features, proposals, targets)
        proposals = self.label_and_sample_proposals(proposals, targets)
        if self.mask_head_on_all_regions:
            losses, logits = self.train_on_all_regions(features, proposals)
            foreground, positive = select_foreground_proposals(proposals, self.num_classes)
            logits = logits[torch.cat(positive)]
        else:
            losses = self._forward_box(features, proposals)
            foreground, _ = select_foreground_proposals(proposals, self.num_classes)
            logits = self.mask_logits(features, [x.proposal_boxes for x in foreground])
        losses["loss_mask"] = self.mask_head.loss_weight * mask_rcnn_loss(logits, foreground, self.mask_head.vis_period)
        classes = [x.gt_classes for x in foreground]
        for instances, class_logits in zip(foreground, select_class(logits, classes), strict=True):
            instances.mask_logits = class_logits
        return foreground, losses

    def label_and_sample_proposals(self, proposals: list[Instances], targets: list[Instances]) -> list[Instances]:
        """Labels and samples proposals as detectron2's ROIHeads, with `gt_masks` as IndexedMasks instead of copies."""
        indexed = [Instances(t.image_size, **t.get_fields()) for t in targets]
        for target in indexed:
            if target.has("gt_masks"):
                target.gt_masks = IndexedMasks(target.gt_masks.tensor)
        return super().label_and_sample_proposals(proposals, indexed)

    def train_on_all_regions(
        self, features: dict[str, Tensor], proposals: list[Instances]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Runs the box head and the mask head on all sampled proposals.

        Returns:
            The losses of the box head, and the mask logits (R, T, M, M).
        """
        losses = self._forward_box(features, proposals)
        return losses, self.mask_logits(features, [x.proposal_boxes for x in proposals])

    def mask_logits(self, features: dict[str, Tensor], boxes: list[Boxes]) -> Tensor:
        """Runs the mask head on given boxes.

        Args:
            features: feature maps of the backbone.
            boxes: one `Boxes` (R_i) per image, in pixels of the network's input.

        Returns:
            (R, T, M, M) raw mask logits.
        """
        pooled = self.mask_pooler([features[f] for f in self.mask_in_features], boxes)
        return self.mask_head.layers(pooled)

    def _forward_mask(self, features: dict[str, Tensor], instances: list[Instances]) -> list[Instances]:
        logits = self.mask_logits(features, [x.pred_boxes for x in instances])
        classes = [x.pred_classes for x in instances]
        for x, class_logits in zip(instances, select_class(logits, classes), strict=True):
            x.pred_mask_logits = class_logits
        return instances


def select_class(logits: Tensor, classes: list[Tensor]) -> list[Tensor]:
    """Selects the masks of one class per region.

    Args:
        logits: (R, T, M, M); T = 1 for a class-agnostic mask head.
        classes: int64 classes (R_i,) of the regions, per image.

    Returns:
        For each image (R_i, M, M).
    """
    own = logits
    if logits.shape[1] > 1:
        index = torch.cat(classes)[:, None, None, None]
        own = logits.gather(1, index.expand(-1, 1, *logits.shape[2:]))
    return list(own[:, 0].split([c.shape[0] for c in classes]))

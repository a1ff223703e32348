"""Region segmentation head of Seamless Scene Segmentation (section 3.2) as detectron2 RoI heads."""

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY
from detectron2.structures import Instances
from torch import Tensor

from .roi_heads import PanopticROIHeads
from .seamless_box_head import SeamlessBoxPredictor
from .seamless_pooler import SeamlessROIPooler


@ROI_HEADS_REGISTRY.register()
class SeamlessROIHeads(PanopticROIHeads):
    """`PanopticROIHeads` with Seamless's feature sampling and box predictor. The config selects the heads.

    In training, an image without things has no regions (detectron2 would sample background). The heads still run, so
    that all processes of a job take part in the synchronized norms.

    Deviation from the published code: proposals on crowd regions are not excluded but count as background, because
    crowd regions are not part of detectron2's ground-truth instances.
    """

    box_conventions = ("exclusive",)

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        parts = super()._init_box_head(cfg, input_shape)
        parts["box_pooler"] = cls._make_pooler(cfg, input_shape, cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION)
        parts["box_predictor"] = SeamlessBoxPredictor(cfg, parts["box_head"].output_shape)
        return parts

    @classmethod
    def _init_mask_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        parts = super()._init_mask_head(cfg, input_shape)
        if parts:
            parts["mask_pooler"] = cls._make_pooler(cfg, input_shape, cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION)
        return parts

    @staticmethod
    def _make_pooler(cfg: CfgNode, input_shape: dict[str, ShapeSpec], resolution: int) -> SeamlessROIPooler:
        return SeamlessROIPooler(resolution, [input_shape[name].stride for name in cfg.MODEL.ROI_HEADS.IN_FEATURES])

    def train_on_all_regions(
        self, features: dict[str, Tensor], proposals: list[Instances]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Runs both heads, see `PanopticROIHeads`. Both read the same pooled features if their poolers are alike."""
        alike = self.box_pooler.output_size == self.mask_pooler.output_size
        if self.train_on_pred_boxes or not alike or self.box_in_features != self.mask_in_features:
            return super().train_on_all_regions(features, proposals)
        pooled = self.box_pooler([features[f] for f in self.box_in_features], [x.proposal_boxes for x in proposals])
        losses = self.box_predictor.losses(self.box_predictor(self.box_head(pooled)), proposals)
        return losses, self.mask_head.layers(pooled)

    def label_and_sample_proposals(self, proposals: list[Instances], targets: list[Instances]) -> list[Instances]:
        """Labels and samples proposals as detectron2's ROIHeads, but keeps none for an image without ground truth."""
        usable = [p if len(t) else p[:0] for p, t in zip(proposals, targets, strict=True)]
        return super().label_and_sample_proposals(usable, targets)

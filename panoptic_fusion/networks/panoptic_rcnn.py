"""Network that covers all four papers: backbone, RPN, RoI heads, a stuff head and a fusion.

Shapes: N is the batch size, C the number of semantic channels, (H, W) the size of the padded network input.
"""

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_sem_seg_head
from detectron2.modeling.meta_arch.rcnn import GeneralizedRCNN
from detectron2.structures import Boxes, ImageList
from torch import Tensor, nn

from panoptic_fusion.config import resolve_config
from panoptic_fusion.modeling.backbone.branches import add_stuff_branch
from panoptic_fusion.modeling.fusion import FusionTrainingInputs, build_panoptic_fusion, fill_in_thresholds
from panoptic_fusion.modeling.things.roi_heads import select_class

from .losses import merge_losses
from .test_time_augmentation import TestTimeAugmentation, fused_outputs


@META_ARCH_REGISTRY.register()
class PanopticRCNN(GeneralizedRCNN):
    """Mask R-CNN with a stuff head and a fusion; each of the four papers is one choice of the two.

    In training it returns a dict of losses. In inference it returns the same outputs per image as detectron2's
    PanopticFPN: `sem_seg` (C, h, w) float logits, `instances`, and `panoptic_seg`, a map (h, w) int32 (0 = void) with
    its `segments_info`. (h, w) are the `height` and `width` of the input dict.
    """

    has_two_branches = True  # supports MODEL.SHARING
    without_things = "SemanticNetwork"  # MODEL.META_ARCHITECTURE for a dataset without thing classes

    @configurable
    def __init__(
        self,
        *,
        sem_seg_head: nn.Module,
        fusion: nn.Module,
        outputs: tuple[str, ...] = ("sem_seg", "instances", "panoptic_seg"),
        fuse_at_input_resolution: bool = False,
        augmentation: TestTimeAugmentation | None = None,
        **kwargs,
    ):
        """Initializes the network.

        Args:
            sem_seg_head: module with the interface of `StuffHead`.
            fusion: fusion module.
            outputs: names of the outputs that inference returns: "sem_seg", "instances", "panoptic_seg" and names in
                OUTPUT_REGISTRY.
            fuse_at_input_resolution: whether to fuse at input resolution and then resize the labels (nearest).
            augmentation: multi-scale and flip testing.
            kwargs: forwarded to detectron2's GeneralizedRCNN.
        """
        super().__init__(**kwargs)
        self.sem_seg_head = sem_seg_head
        self.fusion = fusion
        self.outputs = frozenset(outputs)
        self.paste_masks = True  # False: `instances` keep their pred_mask_logits (R, M, M) instead of pred_masks
        self.fuse_at_input_resolution = fuse_at_input_resolution
        self.augmentation = augmentation

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Returns the arguments of `__init__` for a config; builds all parts."""
        cfg = resolve_config(cfg)
        kwargs = super().from_config(cfg)
        kwargs["backbone"] = add_stuff_branch(kwargs["backbone"], cfg)
        shape = kwargs["backbone"].output_shape()
        return {
            **kwargs,
            "sem_seg_head": build_sem_seg_head(cfg, shape),
            "fusion": build_panoptic_fusion(cfg),
            "outputs": tuple(cfg.MODEL.PANOPTIC_FUSION.OUTPUTS),
            "fuse_at_input_resolution": fill_in_thresholds(cfg).MODEL.PANOPTIC_FUSION.AT_INPUT_RESOLUTION,
            "augmentation": TestTimeAugmentation.from_config(cfg),
            "vis_period": 0,  # engine.hooks.VisualizePredictions writes the visualizations, not the model itself
        }

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """Returns the losses in training, and the outputs of each image in inference.

        Args:
            batched_inputs: one dict per image with `image` (3, h, w). In training it also has `sem_seg` (h, w) int64
                and `instances`. In inference it may have `height` and `width`, the size of the outputs.

        Returns:
            The losses in training, otherwise a list of dicts with the outputs.

        Raises:
            ConfigError: if a part returns a loss that it does not declare (see `losses.py`).
        """
        if not self.training:
            return self.inference(batched_inputs)
        gt_instances = [x["instances"].to(self.device) for x in batched_inputs]
        gt_sem_seg = ImageList.from_tensors(
            [x["sem_seg"].to(self.device) for x in batched_inputs],
            self.backbone.size_divisibility,
            self.sem_seg_head.ignore_value,
            self.backbone.padding_constraints,
        ).tensor
        if not self.fusion.uses_network_outputs and not self._network_learns():
            sizes = [x.image_size for x in gt_instances]
            inputs = FusionTrainingInputs(None, gt_sem_seg, gt_instances, None, sizes, None)
            return merge_losses(self, {"fusion": self.fusion.losses(inputs)})

        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        sem_seg_logits = self.sem_seg_head(features)
        sem_seg_losses = self.sem_seg_head.losses(sem_seg_logits, gt_sem_seg, gt_instances)
        proposals, proposal_losses = self.proposal_generator(images, features, gt_instances)
        foreground, detector_losses = self.roi_heads(images, features, proposals, gt_instances)

        def mask_logits_of(boxes: list[Boxes], classes: list[Tensor]) -> list[Tensor]:
            return select_class(self.roi_heads.mask_logits(features, boxes), classes)

        inputs = FusionTrainingInputs(
            sem_seg_logits=sem_seg_logits,
            gt_sem_seg=gt_sem_seg,
            gt_instances=gt_instances,
            foreground=foreground,
            image_sizes=images.image_sizes,
            mask_logits_of=mask_logits_of,
        )
        losses = {
            "sem_seg_head": sem_seg_losses,
            "proposal_generator": proposal_losses,
            "roi_heads": detector_losses,
            "fusion": self.fusion.losses(inputs),
        }
        return merge_losses(self, losses)

    def _network_learns(self) -> bool:
        """Returns whether any part except the fusion has a trainable parameter."""
        parts = [part for part in self.children() if part is not self.fusion]
        return any(parameter.requires_grad for part in parts for parameter in part.parameters())

    def inference(self, batched_inputs: list[dict]) -> list[dict]:
        """Returns the outputs of each image; see `forward`."""
        detector = None if self.outputs == {"sem_seg"} else self
        return fused_outputs(self, batched_inputs, detector, self)

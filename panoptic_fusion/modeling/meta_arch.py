"""The one network of all four papers: backbone, RPN, RoI heads, a stuff head and a fusion.

Shape shorthand: N: images, C: semantic channels, H, W: size of the padded network input.
"""

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_sem_seg_head
from detectron2.modeling.meta_arch.rcnn import GeneralizedRCNN
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from . import backbone, stuff_heads, things  # noqa: F401  (registers their parts)
from .backbone.branches import add_stuff_branch
from .fusion import FusionTrainingInputs, SemSegLogits, build_panoptic_fusion
from .fusion.tasc_loss import things_masks
from .things.roi_heads import select_class


@META_ARCH_REGISTRY.register()
class PanopticRCNN(GeneralizedRCNN):
    """Mask R-CNN with a stuff head and a fusion: each of the four papers is one choice of the two.

    In training it returns a dict of losses. In inference it returns, for each image, what detectron2's PanopticFPN
    returns: `sem_seg` (C, h, w) float logits, `instances`, and `panoptic_seg`: the map (h, w) int32 (0 = void) with its
    `segments_info`; h, w are the `height` and `width` of the input dict.
    """

    @configurable
    def __init__(
        self,
        *,
        sem_seg_head: nn.Module,
        fusion: nn.Module,
        outputs: tuple[str, ...] = ("sem_seg", "instances", "panoptic_seg"),
        fuse_at_input_resolution: bool = False,
        **kwargs,
    ):
        """
        Args:
            sem_seg_head: a module with the interface of `StuffHead`.
            fusion: a `PanopticFusion`.
            outputs: what inference returns, of "sem_seg", "instances", "panoptic_seg", "things_masks" (see
                `fusion.tasc_loss.things_masks`).
            fuse_at_input_resolution: fuse at the size of the network's input, then resize the labels (nearest).
            kwargs: those of detectron2's GeneralizedRCNN.
        """
        super().__init__(**kwargs)
        self.sem_seg_head = sem_seg_head
        self.fusion = fusion
        self.outputs = frozenset(outputs)
        self.paste_masks = True  # False: `instances` keep their pred_mask_logits (R, M, M) in place of pred_masks
        self.fuse_at_input_resolution = fuse_at_input_resolution

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        from panoptic_fusion.resolve import resolve_config  # resolve.py reads this package's registries

        cfg = resolve_config(cfg)
        kwargs = super().from_config(cfg)
        kwargs["backbone"] = add_stuff_branch(kwargs["backbone"], cfg)
        shape = kwargs["backbone"].output_shape()
        return {
            **kwargs,
            "sem_seg_head": build_sem_seg_head(cfg, shape),
            "fusion": build_panoptic_fusion(cfg),
            "outputs": tuple(cfg.MODEL.PANOPTIC_FUSION.OUTPUTS),
            "fuse_at_input_resolution": cfg.MODEL.PANOPTIC_FUSION.AT_INPUT_RESOLUTION,
            "vis_period": 0,  # pictures come from engine.hooks.VisualizePredictions, not from inside the model
        }

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """
        Args:
            batched_inputs: one dict an image with `image` (3, h, w); in training also `sem_seg` (h, w) int64 and
                `instances`; in inference optionally `height` and `width` of the outputs.

        Returns:
            The losses in training, else a list of dicts with the outputs.
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
        if not self.fusion.needs_network and not self._network_learns():
            sizes = [x.image_size for x in gt_instances]
            return self.fusion.losses(FusionTrainingInputs(None, gt_sem_seg, gt_instances, None, sizes, None))

        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        sem_seg_logits = self.sem_seg_head(features)
        losses = self.sem_seg_head.losses(sem_seg_logits, gt_sem_seg, gt_instances)
        proposals, proposal_losses = self.proposal_generator(images, features, gt_instances)
        foreground, detector_losses = self.roi_heads(images, features, proposals, gt_instances)
        losses.update(proposal_losses)
        losses.update(detector_losses)

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
        losses.update(self.fusion.losses(inputs))
        return losses

    def _network_learns(self) -> bool:
        """Whether any part but the fusion has a parameter that is trained."""
        parts = [part for part in self.children() if part is not self.fusion]
        return any(parameter.requires_grad for part in parts for parameter in part.parameters())

    def inference(self, batched_inputs: list[dict]) -> list[dict]:
        """See `forward`."""
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        sem_seg_logits = self.sem_seg_head(features)
        if self.outputs == {"sem_seg"}:
            detections = [None] * len(images)
        else:
            proposals, _ = self.proposal_generator(images, features, None)
            detections, _ = self.roi_heads(images, features, proposals, None)
        padded_size = images.tensor.shape[-2:]
        results = []
        for logits, instances, size, x in zip(
            sem_seg_logits, detections, images.image_sizes, batched_inputs, strict=True
        ):
            output_size = (x.get("height", size[0]), x.get("width", size[1]))
            results.append(self._postprocess_image(logits, instances, tuple(padded_size), size, output_size))
        return results

    def _postprocess_image(
        self,
        logits: Tensor,
        instances: Instances | None,
        padded_size: tuple[int, int],
        image_size: tuple[int, int],
        output_size: tuple[int, int],
    ) -> dict:
        result = {}
        if "sem_seg" in self.outputs:
            result["sem_seg"] = SemSegLogits(logits, padded_size, image_size, output_size).full()
        if instances is not None:
            fused_size = image_size if self.fuse_at_input_resolution else output_size
            instances = instances[rescale_instances(instances, output_size).pred_boxes.nonempty()]
            scaled = rescale_instances(instances, output_size)
            if "panoptic_seg" in self.outputs:
                at_fused_size = scaled if fused_size == output_size else rescale_instances(instances, fused_size)
                sem_seg = SemSegLogits(logits, padded_size, image_size, fused_size)
                result["panoptic_seg"] = self.fusion(sem_seg, at_fused_size, output_size)
            if "instances" in self.outputs:
                result["instances"] = with_pasted_masks(scaled) if self.paste_masks else scaled
            if "things_masks" in self.outputs:
                kept = instances[instances.scores >= self.fusion.instances_confidence_thresh]
                result["things_masks"] = things_masks(logits, kept, self.fusion.label_space, padded_size, image_size)
        return result


def rescale_instances(instances: Instances, size: tuple[int, int]) -> Instances:
    """Instances in the coordinates of an image of `size` (h, w), boxes clipped. All rows are kept, and the given
    instances are left as they are (detectron2's detector_postprocess scales their boxes in place)."""
    height, width = instances.image_size
    boxes = instances.pred_boxes.clone()
    boxes.scale(size[1] / width, size[0] / height)
    boxes.clip(size)
    scaled = Instances(size, **instances.get_fields())
    scaled.pred_boxes = boxes
    return scaled


def with_pasted_masks(instances: Instances) -> Instances:
    """Instances with `pred_masks` (R, h, w) bool in place of `pred_mask_logits` (R, M, M)."""
    pasted = Instances(instances.image_size, **instances.get_fields())
    if pasted.has("pred_mask_logits"):
        pasted.pred_masks = pasted.pred_mask_logits.sigmoid()[:, None]
        pasted.remove("pred_mask_logits")
    return detector_postprocess(pasted, *instances.image_size)

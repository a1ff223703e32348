"""Single-task networks, for instances or for semantic segmentation, with the parts and configs of PanopticRCNN.

Shapes: N is the batch size, C the number of semantic channels, (H, W) the size of the padded network input.
"""

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone, build_sem_seg_head
from detectron2.modeling.meta_arch.rcnn import GeneralizedRCNN
from detectron2.structures import ImageList
from torch import Tensor, nn

from panoptic_fusion.config import resolve_config
from panoptic_fusion.data.label_space import LabelSpace
from panoptic_fusion.modeling.fusion import SemSegLogits
from panoptic_fusion.modeling.fusion.finite import broken_cells, void_pixels, without_broken_cells

from .inference import output_instances, visible_instances
from .losses import merge_losses
from .test_time_augmentation import TestTimeAugmentation, heads_of_images


@META_ARCH_REGISTRY.register()
class InstanceNetwork(GeneralizedRCNN):
    """Network without a stuff head: detectron2's GeneralizedRCNN with this project's configs and RoI heads.

    In training it returns a dict of losses, in inference one dict with `instances` per image.
    """

    possible_outputs = ("instances",)
    paste_masks = True  # as in PanopticRCNN

    @configurable
    def __init__(self, *, augmentation: TestTimeAugmentation | None = None, **kwargs):
        """Initializes the network.

        Args:
            augmentation: see `PanopticRCNN`.
            kwargs: forwarded to detectron2's GeneralizedRCNN.
        """
        super().__init__(**kwargs)
        self.augmentation = augmentation

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Returns the arguments of `__init__` for a config; builds all parts."""
        cfg = resolve_config(cfg)
        return {**super().from_config(cfg), "augmentation": TestTimeAugmentation.from_config(cfg), "vis_period": 0}

    def inference(self, batched_inputs: list[dict]) -> list[dict]:
        """Returns the instances of each image, with masks at output resolution unless `paste_masks` is False.

        See detectron2's GeneralizedRCNN.
        """
        results = []
        for heads, size in heads_of_images(batched_inputs, self, None, self.augmentation):
            instances = visible_instances(heads.instances, size)
            results.append({"instances": output_instances(instances, size, paste_masks=self.paste_masks)})
        return results


@META_ARCH_REGISTRY.register()
class SemanticNetwork(nn.Module):
    """Network without RPN and RoI heads: backbone and stuff head.

    In training it returns a dict of losses. In inference it returns per image `sem_seg` (C, h, w) float logits and
    `panoptic_seg`, in which each class of the argmax is one segment. This includes thing classes, so that the panoptic
    evaluator can measure its mIoU. Such thing segments have neither `score` nor `instance_id`.
    """

    possible_outputs = ("sem_seg", "panoptic_seg")
    without_things = "SemanticNetwork"

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        sem_seg_head: nn.Module,
        pixel_mean: list[float],
        pixel_std: list[float],
        label_space: LabelSpace,
        ontology: str = "full",
        outputs: tuple[str, ...] = ("sem_seg", "panoptic_seg"),
        augmentation: TestTimeAugmentation | None = None,
    ):
        """Initializes the network.

        Args:
            backbone: detectron2 backbone.
            sem_seg_head: module with the interface of `StuffHead`.
            pixel_mean, pixel_std: mean and standard deviation of each input channel.
            label_space, ontology: meaning of the channels of the semantic logits.
            outputs: outputs that inference returns: "sem_seg" and "panoptic_seg"; other names are ignored.
            augmentation: see `PanopticRCNN`.
        """
        super().__init__()
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.label_space = label_space
        self.ontology = ontology
        self.outputs = frozenset(outputs)
        self.augmentation = augmentation
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Returns the arguments of `__init__` for a config; builds all parts."""
        cfg = resolve_config(cfg)
        backbone = build_backbone(cfg)
        return {
            "backbone": backbone,
            "sem_seg_head": build_sem_seg_head(cfg, backbone.output_shape()),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "label_space": LabelSpace.from_categories(cfg.MODEL.CATEGORIES),
            "ontology": cfg.MODEL.SEM_SEG_HEAD.ONTOLOGY,
            "outputs": tuple(cfg.MODEL.PANOPTIC_FUSION.OUTPUTS),
            "augmentation": TestTimeAugmentation.from_config(cfg),
        }

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return self.pixel_mean.device

    def preprocess_image(self, batched_inputs: list[dict]) -> ImageList:
        """Normalizes and pads the images."""
        images = [(x["image"].to(self.device) - self.pixel_mean) / self.pixel_std for x in batched_inputs]
        return self._batch(images)

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """Returns the losses in training, and the outputs of each image in inference.

        For the inputs see `PanopticRCNN.forward`.
        """
        if not self.training:
            return self.inference(batched_inputs)
        labels = self._batch([x["sem_seg"].to(self.device) for x in batched_inputs], self.sem_seg_head.ignore_value)
        gt_instances = [x["instances"].to(self.device) for x in batched_inputs]
        logits = self.sem_seg_head(self.backbone(self.preprocess_image(batched_inputs).tensor))
        return merge_losses(self, {"sem_seg_head": self.sem_seg_head.losses(logits, labels.tensor, gt_instances)})

    def inference(self, batched_inputs: list[dict]) -> list[dict]:
        """Returns the outputs of each image; see the class."""
        results = []
        for heads, size in heads_of_images(batched_inputs, None, self, self.augmentation):
            sem_seg = SemSegLogits(heads.sem_seg_logits, heads.padded_size, heads.image_size, size)
            result = {}
            if "sem_seg" in self.outputs:
                result["sem_seg"] = sem_seg.full()
            if "panoptic_seg" in self.outputs:
                result["panoptic_seg"] = self._one_segment_per_class(sem_seg)
            results.append(result)
        return results

    def _one_segment_per_class(self, sem_seg: SemSegLogits) -> tuple[Tensor, list[dict]]:
        """Returns `one_segment_per_class` of the argmax; pixels with a logit that is not finite are void."""
        is_broken = broken_cells(sem_seg.logits)
        where = None
        if is_broken.any():
            sem_seg, where = without_broken_cells(sem_seg, is_broken, self.label_space.num_stuff)
        segments = one_segment_per_class(sem_seg.argmax(), self.label_space, self.ontology)
        return segments if where is None else void_pixels(*segments, where)

    def _batch(self, tensors: list[Tensor], pad_value: float = 0.0) -> ImageList:
        return ImageList.from_tensors(
            tensors, self.backbone.size_divisibility, pad_value, self.backbone.padding_constraints
        )


def one_segment_per_class(labels: Tensor, label_space: LabelSpace, ontology: str) -> tuple[Tensor, list[dict]]:
    """Converts a semantic segmentation to the panoptic format.

    Args:
        labels: (h, w) int64 semantic channels.
        label_space: label space of the model.
        ontology: meaning of the channels; with "collapsed", the single channel of all things becomes void.

    Returns:
        The map (h, w) int32, and segments_info with id, isthing, category_id, area.
    """
    num_stuff = label_space.num_stuff
    areas = torch.bincount(labels.flatten(), minlength=label_space.num_channels(ontology)).tolist()
    ids, segments_info = [0] * len(areas), []
    for channel, area in enumerate(areas):
        isthing = channel >= num_stuff
        if area == 0 or (isthing and ontology == "collapsed"):
            continue
        ids[channel] = len(segments_info) + 1
        category_id = channel - num_stuff if isthing else channel
        segments_info.append({"id": ids[channel], "isthing": isthing, "category_id": category_id, "area": area})
    table = torch.tensor(ids, dtype=torch.int32, device=labels.device)
    return table[labels], segments_info

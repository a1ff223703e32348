"""Networks of one task each: instances only and semantic segmentation only, with the parts and configs of PanopticRCNN.

Shape shorthand: N: images, C: semantic channels, H, W: size of the padded network input.
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

from .inference import output_instances, output_size_of, run_heads, visible_instances
from .losses import merge_losses


@META_ARCH_REGISTRY.register()
class InstanceNetwork(GeneralizedRCNN):
    """The network without a stuff head: detectron2's GeneralizedRCNN on this project's configs and RoI heads.

    In training it returns a dict of losses, in inference for each image a dict with `instances`.
    """

    possible_outputs = ("instances",)
    paste_masks = True  # as in PanopticRCNN

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        return {**super().from_config(resolve_config(cfg)), "vis_period": 0}

    def inference(self, batched_inputs: list[dict]) -> list[dict]:
        """See detectron2's GeneralizedRCNN; with masks at the size of the output, unless `paste_masks` is False."""
        results = []
        for x, heads in zip(batched_inputs, run_heads(self, batched_inputs, sem_seg=False), strict=True):
            size = output_size_of(x, heads.image_size)
            instances = visible_instances(heads.instances, size)
            results.append({"instances": output_instances(instances, size, paste_masks=self.paste_masks)})
        return results


@META_ARCH_REGISTRY.register()
class SemanticNetwork(nn.Module):
    """The network without RPN and RoI heads: backbone and stuff head.

    In training it returns a dict of losses. In inference it returns for each image `sem_seg` (C, h, w) float logits and
    `panoptic_seg`, in which each class of the argmax is one segment, things too: so the panoptic evaluator measures its
    mIoU. Such thing segments have no `score` and no `instance_id`.
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
    ):
        """
        Args:
            backbone: a detectron2 backbone.
            sem_seg_head: a module with the interface of `StuffHead`.
            pixel_mean, pixel_std: of the input's channels.
            label_space, ontology: what the channels of the semantic logits are.
            outputs: what inference returns, of "sem_seg" and "panoptic_seg"; other names are of no effect.
        """
        super().__init__()
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.label_space = label_space
        self.ontology = ontology
        self.outputs = frozenset(outputs)
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
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
        }

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        return self.pixel_mean.device

    def preprocess_image(self, batched_inputs: list[dict]) -> ImageList:
        """Normalises and pads the images."""
        images = [(x["image"].to(self.device) - self.pixel_mean) / self.pixel_std for x in batched_inputs]
        return self._batch(images)

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """For the inputs see `PanopticRCNN.forward`."""
        if not self.training:
            return self.inference(batched_inputs)
        labels = self._batch([x["sem_seg"].to(self.device) for x in batched_inputs], self.sem_seg_head.ignore_value)
        gt_instances = [x["instances"].to(self.device) for x in batched_inputs]
        logits = self.sem_seg_head(self.backbone(self.preprocess_image(batched_inputs).tensor))
        return merge_losses(self, {"sem_seg_head": self.sem_seg_head.losses(logits, labels.tensor, gt_instances)})

    def inference(self, batched_inputs: list[dict]) -> list[dict]:
        """See the class."""
        results = []
        for x, heads in zip(batched_inputs, run_heads(self, batched_inputs, instances=False), strict=True):
            size = output_size_of(x, heads.image_size)
            sem_seg = SemSegLogits(heads.sem_seg_logits, heads.padded_size, heads.image_size, size)
            result = {}
            if "sem_seg" in self.outputs:
                result["sem_seg"] = sem_seg.full()
            if "panoptic_seg" in self.outputs:
                result["panoptic_seg"] = one_segment_per_class(sem_seg.argmax(), self.label_space, self.ontology)
            results.append(result)
        return results

    def _batch(self, tensors: list[Tensor], pad_value: float = 0.0) -> ImageList:
        return ImageList.from_tensors(
            tensors, self.backbone.size_divisibility, pad_value, self.backbone.padding_constraints
        )


def one_segment_per_class(labels: Tensor, label_space: LabelSpace, ontology: str) -> tuple[Tensor, list[dict]]:
    """A semantic segmentation in the form of a panoptic one.

    Args:
        labels: (h, w) int64 semantic channels.
        label_space: the classes.
        ontology: what the channels are; "collapsed" makes the one channel of all things void.

    Returns:
        The map (h, w) int32 and segments_info with id, isthing, category_id, area.
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

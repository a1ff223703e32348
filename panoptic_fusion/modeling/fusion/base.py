"""Interface of a fusion, which combines instances and semantic segmentation into one panoptic segmentation.

Shapes in this package: N is the batch size, R the number of instances in an image, C the number of semantic channels
(stuff first, then things), T the number of thing classes, S the number of stuff classes, M the side of a mask head's
output, H x W the output resolution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from detectron2.config import CfgNode, configurable
from detectron2.structures import Boxes, Instances
from detectron2.utils.registry import Registry
from torch import nn

from panoptic_fusion.data.label_space import LabelSpace, check_ontology
from panoptic_fusion.errors import ConfigError
from panoptic_fusion.modeling.fusion.finite import PanopticSeg, fuse_finite
from panoptic_fusion.modeling.fusion.sem_seg_logits import SemSegLogits

PANOPTIC_FUSION_REGISTRY = Registry("PANOPTIC_FUSION")
PANOPTIC_FUSION_REGISTRY.__doc__ = """
Registry of fusions: subclasses of `PanopticFusion`, built by `build_panoptic_fusion(cfg)` from the name in
MODEL.PANOPTIC_FUSION.NAME.
"""

OUTPUT_REGISTRY = Registry("PANOPTIC_OUTPUT")
OUTPUT_REGISTRY.__doc__ = """
Registry of further outputs that MODEL.PANOPTIC_FUSION.OUTPUTS may name: functions `(fusion, logits, instances,
padded_size, image_size)` of one image's semantic logits (C, H/4, W/4), its instances in pixels of the network's input,
and the sizes of that input with and without padding.
"""


@dataclass
class FusionTrainingInputs:
    """Training inputs of a fusion for a batch of N images.

    The outputs of the network (sem_seg_logits, foreground, mask_logits_of) are None if only the fusion is trained and
    it does not need them.

    Attributes:
        sem_seg_logits: (N, C, H/4, W/4) float, output of the stuff head on the padded batch of size H x W.
        gt_sem_seg: (N, H, W) int64 semantic channels, padded with 255 (ignored).
        gt_instances: N Instances with gt_boxes, gt_classes, gt_masks (BitMasks), in coordinates of the padded batch.
        foreground: N Instances, the sampled positive proposals: proposal_boxes, gt_classes, gt_masks
            (IndexedMasks) if the image has things, and mask_logits (R_i, M, M) float of the ground-truth class, with
            gradient.
        image_sizes: N pairs (height, width) of the images before padding.
        mask_logits_of: function that runs the mask head on given boxes. It takes N Boxes and N int64 tensors of classes
            (R_i,), and returns N tensors (R_i, M, M) with the mask logits of these classes, with gradient.
    """

    sem_seg_logits: torch.Tensor
    gt_sem_seg: torch.Tensor
    gt_instances: list[Instances]
    foreground: list[Instances]
    image_sizes: list[tuple[int, int]]
    mask_logits_of: Callable[[list[Boxes], list[torch.Tensor]], list[torch.Tensor]]


class PanopticFusion(nn.Module):
    """Base class of fusions, with `losses` for training and `forward` for inference. A rule defines `combine`.

    Rules that paint one instance after another derive from `GreedyFusion`, which needs only the paint order and the
    accept decision. Other rules derive from this class.

    Attributes:
        uses_network_outputs: whether `losses` uses outputs of the network. If it does not and the network is frozen
            (MODEL.FREEZE), the network is not run to train the fusion alone.
        trains: {loss: names of the network's parts that it trains}, for every loss that `losses` returns. Parts are
            "proposal_generator", "roi_heads", "sem_seg_head" and "fusion" (the fusion itself, if it has parameters).
        thresholds: {key of MODEL.PANOPTIC_FUSION: value to use if the config has None}. A subclass lists only the keys
            that differ from its base class.
    """

    uses_network_outputs = True
    trains: Mapping[str, Sequence[str]] = {}
    thresholds: Mapping[str, float | bool] = {
        "INSTANCES_CONFIDENCE_THRESH": 0.5,
        "OVERLAP_THRESH": 0.5,
        "STUFF_AREA_LIMIT": 4096,
        "STUFF_CHANNELS_ONLY": False,
        "AT_INPUT_RESOLUTION": False,
    }

    @configurable
    def __init__(
        self,
        *,
        label_space: LabelSpace,
        ontology: str,
        instances_confidence_thresh: float,
        overlap_thresh: float,
        stuff_area_limit: int,
    ):
        """Builds the fusion.

        Args:
            label_space: thing and stuff classes.
            ontology: semantic channels of the stuff head: "full", "collapsed" or "stuff".
            instances_confidence_thresh: score threshold in [0, 1]. Instances with a lower score are not used.
            overlap_thresh: overlap threshold in [0, 1] for an instance and the earlier ones. Each rule defines its
                measure.
            stuff_area_limit: number of pixels at output resolution. Smaller stuff segments become void.

        Raises:
            ConfigError: if a value is out of range.
        """
        super().__init__()
        check_ontology(ontology)
        for key, value in (
            ("INSTANCES_CONFIDENCE_THRESH", instances_confidence_thresh),
            ("OVERLAP_THRESH", overlap_thresh),
        ):
            if not 0 <= value <= 1:
                raise ConfigError(f"MODEL.PANOPTIC_FUSION.{key} is {value}: use a number in [0, 1]")
        if stuff_area_limit < 0:
            raise ConfigError(f"MODEL.PANOPTIC_FUSION.STUFF_AREA_LIMIT is {stuff_area_limit}: use 0 or more pixels")
        self.label_space = label_space
        self.ontology = ontology
        self.instances_confidence_thresh = float(instances_confidence_thresh)
        self.overlap_thresh = float(overlap_thresh)
        self.stuff_area_limit = int(stuff_area_limit)

    @classmethod
    def fill_in(cls, cfg: CfgNode) -> CfgNode:
        """Returns a copy of a config in which each threshold that is None is replaced by the value of this class.

        Raises:
            ConfigError: if `thresholds` has a key that `PanopticFusion.thresholds` does not have.
        """
        cfg = cfg.clone()
        cfg.defrost()
        fusion = cfg.MODEL.PANOPTIC_FUSION
        for key, value in cls.all_thresholds().items():
            if fusion.get(key) is None:
                fusion[key] = value
        cfg.freeze()
        return cfg

    @classmethod
    def all_thresholds(cls) -> dict[str, float | bool]:
        """Returns every key of `PanopticFusion.thresholds` with the value of this class.

        Raises:
            ConfigError: `thresholds` has a key that is not one of `PanopticFusion.thresholds`.
        """
        result: dict[str, float | bool] = {}
        for base in reversed(cls.__mro__):  # this class last
            for key, value in vars(base).get("thresholds", {}).items():
                if key not in PanopticFusion.thresholds:
                    known = ", ".join(PanopticFusion.thresholds)
                    raise ConfigError(f"{base.__name__}.thresholds has the key {key!r}; available: {known}")
                result[key] = value
        return result

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Returns the constructor arguments from a config."""
        fusion = cls.fill_in(cfg).MODEL.PANOPTIC_FUSION
        return {
            "label_space": LabelSpace.from_categories(cfg.MODEL.CATEGORIES),
            "ontology": cfg.MODEL.SEM_SEG_HEAD.ONTOLOGY,
            "instances_confidence_thresh": fusion.INSTANCES_CONFIDENCE_THRESH,
            "overlap_thresh": fusion.OVERLAP_THRESH,
            "stuff_area_limit": fusion.STUFF_AREA_LIMIT,
        }

    def losses(self, inputs: FusionTrainingInputs) -> dict[str, torch.Tensor]:
        """Returns the losses that the fusion adds in training, each a weighted scalar. There are none by default."""
        return {}

    def forward(self, sem_seg: SemSegLogits, instances: Instances, size: tuple[int, int] | None = None) -> PanopticSeg:
        """Fuses the instances and the semantic logits of one image at inference.

        Non-finite numbers never enter the rule, see `finite.py`. Instances with such numbers are dropped. Pixels with
        such semantic logits become void unless an instance covers them.

        Args:
            sem_seg: semantic logits, which can be resized to the fusion resolution.
            instances: R instances in coordinates of the fusion resolution, which is their `image_size`: pred_boxes,
                scores (R,) in [0, 1], pred_classes (R,) int64 thing ids, and either pred_mask_logits (R, M, M) float
                (raw logits of the predicted class on the box) or pred_masks (R, H, W) bool.
            size: (height, width) of the output. The labels are resized to it (nearest) before segments are built from
                them. None means the fusion resolution.

        Returns:
            The panoptic map (H, W) int32 on the device of the logits, with 0 for void and segment ids from 1.
            The segments_info, a list of dicts of Python scalars, things first: id, isthing (bool), category_id (thing
            id if isthing, else stuff id), area (pixels), and for things score (float) and instance_id (row of
            `instances`).
        """
        return fuse_finite(self.combine, sem_seg, instances, size, self.label_space.num_stuff)

    def combine(self, sem_seg: SemSegLogits, instances: Instances, size: tuple[int, int] | None) -> PanopticSeg:
        """Applies the fusion rule to finite inputs. Arguments and result are the same as for `forward`."""
        raise NotImplementedError(f"{type(self).__name__} does not define combine().")


def fill_in_thresholds(cfg: CfgNode) -> CfgNode:
    """Returns a copy of a config in which all thresholds below MODEL.PANOPTIC_FUSION are set.

    Thresholds that are None get the values of the fusion named in MODEL.PANOPTIC_FUSION.NAME. Configs and the
    config.yaml of trained models keep None, so that a different NAME uses its own thresholds.

    Raises:
        KeyError: if no fusion with this name is registered (`resolve_config` checks the name).
    """
    return PANOPTIC_FUSION_REGISTRY.get(cfg.MODEL.PANOPTIC_FUSION.NAME).fill_in(cfg)


def build_panoptic_fusion(cfg: CfgNode) -> PanopticFusion:
    """Builds the fusion named in MODEL.PANOPTIC_FUSION.NAME, with its own thresholds where the config has None.

    Raises:
        KeyError: if no fusion with this name is registered (`resolve_config` checks the name).
    """
    return PANOPTIC_FUSION_REGISTRY.get(cfg.MODEL.PANOPTIC_FUSION.NAME)(fill_in_thresholds(cfg))

"""The interface of a fusion: how instances and semantic segmentation become one panoptic segmentation.

Shape shorthand of this package: N images of a batch, R instances of an image, C semantic channels (stuff first, then
things), T thing classes, S stuff classes, M side of a mask head's output, H x W pixels of the output.
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

PanopticSeg = tuple[torch.Tensor, list[dict]]
"""A panoptic segmentation: map (H, W) int32, 0 = void, and its segments_info (see `PanopticFusion.forward`)."""


@dataclass
class FusionTrainingInputs:
    """What a fusion may learn from, for a batch of N images in training.

    What the network computes (sem_seg_logits, foreground, mask_logits_of) is None where only a fusion learns that does
    not need it.

    Attributes:
        sem_seg_logits: (N, C, H/4, W/4) float, output of the stuff head on the padded batch of size H x W.
        gt_sem_seg: (N, H, W) int64 semantic channels, padded with 255 (ignored).
        gt_instances: N Instances with gt_boxes, gt_classes, gt_masks (BitMasks), in coordinates of the padded batch.
        foreground: N Instances, the sampled positive proposals: proposal_boxes, gt_classes, gt_masks
            (IndexedMasks) where the image has things, and mask_logits (R_i, M, M) float of the ground-truth class, with
            gradient.
        image_sizes: N pairs (height, width) of the images before padding.
        mask_logits_of: runs the mask head on given boxes: N Boxes and N int64 tensors of classes (R_i,) in, N tensors
            (R_i, M, M) of the mask logits of these classes out, with gradient.
    """

    sem_seg_logits: torch.Tensor
    gt_sem_seg: torch.Tensor
    gt_instances: list[Instances]
    foreground: list[Instances]
    image_sizes: list[tuple[int, int]]
    mask_logits_of: Callable[[list[Boxes], list[torch.Tensor]], list[torch.Tensor]]


class PanopticFusion(nn.Module):
    """Base class of fusions: `losses` in training, `forward` at inference.

    A rule that paints instances one after another derives from `GreedyFusion`, which needs only its order and its
    accept decision; other rules derive from this class.

    Attributes:
        needs_network: whether `losses` looks at what the network computes. Where it does not, and the network is frozen
            (MODEL.FREEZE), training the fusion alone need not run it.
        trains: {loss: names of the network's parts that it trains}, of every loss that `losses` returns: some of
            "proposal_generator", "roi_heads", "sem_seg_head" and "fusion" (itself, if it has parameters).
        thresholds: {key of MODEL.PANOPTIC_FUSION: its value where the config has None}. A subclass names only those in
            which it differs from its base class.
    """

    needs_network = True
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
        """
        Args:
            label_space: the thing and stuff classes.
            ontology: which semantic channels the stuff head puts out: "full", "collapsed" or "stuff".
            instances_confidence_thresh: instances of a lower score are not used, in [0, 1].
            overlap_thresh: how much of an instance others may cover already, in [0, 1]; each rule says its measure.
            stuff_area_limit: stuff segments of fewer pixels (at output size) become void.

        Raises:
            ConfigError: for a value outside of these ranges.
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
        """Returns a copy of a config in which each threshold that is None has the value of this class.

        Raises:
            ConfigError: `thresholds` has a key that is not one of `PanopticFusion.thresholds`.
        """
        cfg = cfg.clone()
        cfg.defrost()
        fusion = cfg.MODEL.PANOPTIC_FUSION
        for base in cls.__mro__:  # this class first
            for key, value in vars(base).get("thresholds", {}).items():
                if key not in PanopticFusion.thresholds:
                    known = ", ".join(PanopticFusion.thresholds)
                    raise ConfigError(f"{base.__name__}.thresholds has the key {key!r}; available: {known}")
                if fusion.get(key) is None:
                    fusion[key] = value
        cfg.freeze()
        return cfg

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        fusion = cls.fill_in(cfg).MODEL.PANOPTIC_FUSION
        return {
            "label_space": LabelSpace.from_categories(cfg.MODEL.CATEGORIES),
            "ontology": cfg.MODEL.SEM_SEG_HEAD.ONTOLOGY,
            "instances_confidence_thresh": fusion.INSTANCES_CONFIDENCE_THRESH,
            "overlap_thresh": fusion.OVERLAP_THRESH,
            "stuff_area_limit": fusion.STUFF_AREA_LIMIT,
        }

    def losses(self, inputs: FusionTrainingInputs) -> dict[str, torch.Tensor]:
        """The losses that the fusion adds in training, each a weighted scalar; none by default."""
        return {}

    def forward(self, sem_seg: SemSegLogits, instances: Instances, size: tuple[int, int] | None = None) -> PanopticSeg:
        """Fuse the two outputs for one image, at inference.

        Args:
            sem_seg: semantic logits that know how to bring themselves to the size at which is fused.
            instances: R instances in coordinates of that size, which is their `image_size`: pred_boxes, scores (R,) in
                [0, 1], pred_classes (R,) int64 thing ids, and either pred_mask_logits (R, M, M) float (raw logits of
                the predicted class on the box) or pred_masks (R, H, W) bool.
            size: (height, width) of the output, to which the labels are resized (nearest) before segments are made of
                them; None: that at which is fused.

        Returns:
            the panoptic map (H, W) int32 on the device of the logits, 0 = void, segment ids from 1, and segments_info,
            a list of dicts of Python scalars, things first: id, isthing (bool), category_id (thing id if isthing, else
            stuff id), area (pixels), and for things score (float) and instance_id (row of `instances`).
        """
        raise NotImplementedError(f"{type(self).__name__} does not define forward().")


def fill_in_thresholds(cfg: CfgNode) -> CfgNode:
    """Returns a copy of a config whose thresholds below MODEL.PANOPTIC_FUSION are all set.

    Those that are None get the values of the fusion that MODEL.PANOPTIC_FUSION.NAME names. Configs and the config.yaml
    of trained models keep None, so that another NAME brings its own thresholds.

    Raises:
        KeyError: no fusion of this name is registered (`resolve_config` checks the name).
    """
    return PANOPTIC_FUSION_REGISTRY.get(cfg.MODEL.PANOPTIC_FUSION.NAME).fill_in(cfg)


def build_panoptic_fusion(cfg: CfgNode) -> PanopticFusion:
    """Builds the fusion named in MODEL.PANOPTIC_FUSION.NAME, with its own thresholds where the config has None.

    Raises:
        KeyError: no fusion of this name is registered (`resolve_config` checks the name).
    """
    return PANOPTIC_FUSION_REGISTRY.get(cfg.MODEL.PANOPTIC_FUSION.NAME)(fill_in_thresholds(cfg))

"""Fusion of TASCNet: consistency loss in training (section 3.2), mask-guided fusion at inference (section 3.3)."""

from __future__ import annotations

import torch
from detectron2.config import configurable

from panoptic_fusion.decisions import is_confirmed, is_little_covered
from panoptic_fusion.errors import ConfigError
from panoptic_fusion.modeling.fusion.base import PANOPTIC_FUSION_REGISTRY, FusionTrainingInputs
from panoptic_fusion.modeling.fusion.greedy import GreedyFusion, Scene
from panoptic_fusion.modeling.fusion.paint import Candidate, elementwise
from panoptic_fusion.modeling.fusion.tascnet.tasc_loss import (
    THINGS_PROBABILITIES,
    instance_things_mask,
    semantic_things_mask,
    tasc_loss,
    valid_pixel_mask,
)

AGREEMENTS = ("coverage", "iou")  # also the values of OVERLAP
AGREEMENT, AGREEMENT_THRESH = "coverage", 0.7  # the rule's own
STRIDES = (1, 2, 4, 8)


@elementwise
def accept_agreed(
    scene: Scene,
    candidate: Candidate,
    *,
    overlap_thresh: float,
    agreement: str,
    agreement_thresh: float,
    overlap: str = "coverage",
) -> torch.Tensor:
    """Returns whether a candidate is little covered and agrees with the things mask: a 0-d bool tensor.

    Args:
        scene, candidate: see `GreedyFusion.accept`.
        overlap_thresh, agreement_thresh: thresholds in [0, 1].
        agreement, overlap: each one of `AGREEMENTS`, see `MaskGuidedFusion`.
    """
    painted_area = candidate.num_painted if overlap == "iou" else None
    is_free = is_little_covered(candidate.overlap, candidate.area, overlap_thresh, painted_area=painted_area)

    def confirmed() -> torch.Tensor:
        agreed = candidate.count(scene.things_mask)
        things_area = scene.things_area if agreement == "iou" else None
        return is_confirmed(candidate.area, agreed, agreement_thresh, things_area=things_area)

    return is_free & candidate.once(confirmed)


@PANOPTIC_FUSION_REGISTRY.register()
class MaskGuidedFusion(GreedyFusion):
    """Greedy rule that accepts instances by descending score if they agree with the semantic things mask.

    An instance is painted if less than OVERLAP_THRESH (0.4 in the paper) of its pixels are already painted, and its
    agreement with the semantic things mask is more than TASC.AGREEMENT_THRESH (0.7). The things mask consists of the
    pixels whose semantic label is a thing class.

    Deviations from the paper, which uses IoU for both:
    - If an image has several instances, the IoU of each with the things mask of the whole image is small. The default
      is therefore `coverage`, the fraction of the instance's pixels inside the things mask. `iou` is the literal
      reading.
    - IoU with "instances that have already been added" is replaced by the fraction of the instance's pixels that they
      cover, as in the other greedy rules. TASC.OVERLAP `iou` is the literal reading, with all painted pixels.
    - The mask at inference is the semantic argmax, without the threshold of 0.5 of the loss, because each pixel must be
      either thing or stuff.
    - The loss compares the masks at 1/4 of the input resolution, as the semantic logits. TASC.STRIDE 1 is the paper's.
    - Its proposals are those that the RoI heads sample as positive, and ground-truth boxes are among them
      (MODEL.ROI_HEADS.PROPOSAL_APPEND_GT). The paper assembles "each positive proposal from the RPN".

    Not specified in the paper: the score threshold and the minimum stuff area, which are the heuristic rule's.

    In training, it adds `loss_tasc`, described in `tasc_loss.py`. The rule has no parameters, so weights trained with
    it can be evaluated with another rule and vice versa.
    """

    trains = {"loss_tasc": ("sem_seg_head", "roi_heads")}
    thresholds = {"OVERLAP_THRESH": 0.4}

    @configurable
    def __init__(
        self,
        *,
        tasc_loss_weight: float = 1.0,
        tasc_stride: int = 4,
        agreement: str = AGREEMENT,
        agreement_thresh: float = AGREEMENT_THRESH,
        overlap: str = "coverage",
        things_probability: str = "sum",
        **kwargs,
    ):
        """Builds the fusion and its consistency loss.

        Args:
            tasc_loss_weight: weight of `loss_tasc`. 0 disables it.
            tasc_stride: stride of the compared masks in pixels of the network's input: 1 (the paper), 2, 4 (same as the
                semantic logits) or 8.
            agreement: measure of agreement, "coverage" or "iou".
            agreement_thresh: agreement threshold in [0, 1].
            overlap: measure that OVERLAP_THRESH applies to: "coverage", the fraction of the instance's pixels that are
                painted, or "iou" with all painted pixels.
            things_probability: see `of` of `semantic_things_mask`: "sum" or "winner".
            kwargs: forwarded to `PanopticFusion`.

        Raises:
            ConfigError: if the ontology is "stuff", which has no things mask, or if a value is out of range.
        """
        super().__init__(**kwargs)
        prefix = "MODEL.PANOPTIC_FUSION.TASC"
        if self.ontology == "stuff":
            raise ConfigError(
                "MODEL.PANOPTIC_FUSION.NAME is MaskGuidedFusion, whose loss and rule need a semantic mask of the "
                "things, but MODEL.SEM_SEG_HEAD.ONTOLOGY is 'stuff': use 'full' or 'collapsed', or HeuristicFusion"
            )
        if agreement not in AGREEMENTS:
            raise ConfigError(f"{prefix}.AGREEMENT is {agreement!r}: use one of {', '.join(AGREEMENTS)}")
        if overlap not in AGREEMENTS:
            raise ConfigError(f"{prefix}.OVERLAP is {overlap!r}: use one of {', '.join(AGREEMENTS)}")
        if things_probability not in THINGS_PROBABILITIES:
            names = ", ".join(THINGS_PROBABILITIES)
            raise ConfigError(f"{prefix}.THINGS_PROBABILITY is {things_probability!r}: use one of {names}")
        if not 0 <= agreement_thresh <= 1:
            raise ConfigError(f"{prefix}.AGREEMENT_THRESH is {agreement_thresh}: use a number in [0, 1]")
        if tasc_loss_weight < 0:
            raise ConfigError(f"{prefix}.LOSS_WEIGHT is {tasc_loss_weight}: use 0 or more")
        if tasc_stride not in STRIDES:
            raise ConfigError(f"{prefix}.STRIDE is {tasc_stride}: use one of {', '.join(map(str, STRIDES))}")
        self.tasc_loss_weight = float(tasc_loss_weight)
        self.tasc_stride = tasc_stride
        self.agreement = agreement
        self.agreement_thresh = float(agreement_thresh)
        self.overlap = overlap
        self.things_probability = things_probability

    @classmethod
    def from_config(cls, cfg) -> dict:
        """Returns the constructor arguments from a config."""
        tasc = cfg.MODEL.PANOPTIC_FUSION.TASC
        return {
            **super().from_config(cfg),
            "tasc_loss_weight": tasc.LOSS_WEIGHT,
            "tasc_stride": tasc.STRIDE,
            "agreement": tasc.AGREEMENT,
            "agreement_thresh": tasc.AGREEMENT_THRESH,
            "overlap": tasc.OVERLAP,
            "things_probability": tasc.THINGS_PROBABILITY,
        }

    def losses(self, inputs: FusionTrainingInputs) -> dict[str, torch.Tensor]:
        """Returns `loss_tasc`, computed from the existing logits of both heads, or nothing if its weight is 0."""
        if self.tasc_loss_weight == 0:
            return {}
        height, width = inputs.gt_sem_seg.shape[-2:]
        num_stuff, stride = self.label_space.num_stuff, self.tasc_stride
        size = (height // stride, width // stride)
        semantic = semantic_things_mask(inputs.sem_seg_logits, num_stuff, size, self.things_probability)
        instance = instance_things_mask(
            [x.mask_logits for x in inputs.foreground], [x.proposal_boxes for x in inputs.foreground], size, stride
        )
        valid = valid_pixel_mask(inputs.gt_sem_seg, inputs.gt_instances, num_stuff=num_stuff, stride=stride)
        return {"loss_tasc": self.tasc_loss_weight * tasc_loss(semantic, instance, valid)}

    @elementwise
    def accept(self, scene: Scene, candidate: Candidate) -> torch.Tensor:
        """Returns whether to paint a candidate, as a 0-d bool tensor."""
        return accept_agreed(
            scene,
            candidate,
            overlap_thresh=self.overlap_thresh,
            agreement=self.agreement,
            agreement_thresh=self.agreement_thresh,
            overlap=self.overlap,
        )

"""Fusion of UPSNet (section 3.1, "Panoptic Segmentation Head").

It classifies every pixel into stuff classes, instances and unknown, in training and at inference. It has no parameters.
"""

from __future__ import annotations

import torch
from detectron2.config import configurable
from detectron2.structures import Boxes, Instances

from panoptic_fusion.decisions import exceeds_score
from panoptic_fusion.errors import ConfigError
from panoptic_fusion.modeling.fusion.base import (
    PANOPTIC_FUSION_REGISTRY,
    FusionTrainingInputs,
    PanopticFusion,
    PanopticSeg,
)
from panoptic_fusion.modeling.fusion.mask_crops import to_windows
from panoptic_fusion.modeling.fusion.resize import resize_labels
from panoptic_fusion.modeling.fusion.sem_seg_logits import SemSegLogits
from panoptic_fusion.modeling.fusion.upsnet.class_assignment import assign_segments
from panoptic_fusion.modeling.fusion.upsnet.mask_logit_crops import MaskLogitCrops
from panoptic_fusion.modeling.fusion.upsnet.mask_pruning import prune_masks, suppress_boxes
from panoptic_fusion.modeling.fusion.upsnet.panoptic_argmax import panoptic_argmax
from panoptic_fusion.modeling.fusion.upsnet.training import KnownInstances, panoptic_loss, panoptic_targets
from panoptic_fusion.modeling.fusion.upsnet.unknown_channel import sample_known_instances
from panoptic_fusion.resampling import shortest_edge_scale


def fuse_panoptic_head(
    sem_seg: SemSegLogits,
    instances: Instances,
    *,
    num_stuff: int,
    confidence_thresh: float,
    overlap_thresh: float,
    stuff_area_limit: int,
    unknown: bool = True,
    keep_instance_classes: bool = False,
    size: tuple[int, int] | None = None,
    label_scale: float | None = None,
) -> PanopticSeg:
    """Prunes the instances, then gives every pixel to the highest panoptic logit.

    Args:
        sem_seg, instances, size: see `PanopticFusion.forward`; a channel of each thing class is needed.
        num_stuff: S.
        confidence_thresh: instances of this score or a lower one are not used.
        overlap_thresh: maximum fraction of a mask, in [0, 1], that masks of the same class may cover.
        stuff_area_limit: stuff segments of fewer pixels become void.
        unknown: whether there is an unknown channel.
        keep_instance_classes: see `UPSNetFusion`.
        label_scale: see `resize_labels`.

    Returns:
        the panoptic map and segments_info, see `PanopticFusion.forward`.

    Raises:
        ValueError: instances and logits are of different output sizes, or instances have no masks.
    """
    scores = instances.scores
    rows = suppress_boxes(instances.pred_boxes.tensor, scores)
    above = exceeds_score(scores[rows], confidence_thresh)
    masks = MaskLogitCrops.from_instances(instances, rows)
    columns = (rows.double(), scores[rows], instances.pred_classes[rows], above, *masks.corners.unbind(1))
    table = torch.stack(columns).tolist()  # of float64
    masks.windows = to_windows(table[4:])
    used = int(sum(table[3]))  # by descending score
    if masks.size != tuple(sem_seg.output_size):
        raise ValueError(f"Masks of size {masks.size} do not fit a map of {tuple(sem_seg.output_size)}.")

    kept = prune_masks(masks, [int(c) for c in table[2][:used]], overlap_thresh)
    order = [i for i in range(used) if kept[i]]
    classes = [int(table[2][i]) for i in order]
    labels, stuff = panoptic_argmax(
        sem_seg, masks, order, [num_stuff + c for c in classes], num_stuff=num_stuff, unknown=unknown
    )
    return assign_segments(
        resize_labels(labels, size, label_scale),
        resize_labels(stuff, size, label_scale),
        instance_ids=[int(table[0][i]) for i in order],
        scores=[table[1][i] for i in order],
        classes=classes,
        num_stuff=num_stuff,
        stuff_area_limit=stuff_area_limit,
        keep_instance_classes=keep_instance_classes,
    )


@PANOPTIC_FUSION_REGISTRY.register()
class UPSNetFusion(PanopticFusion):
    """UPSNet's panoptic head, with logits Z = [stuff logits, X_mask + Y_mask of each instance, unknown].

    Inference:
    - `mask_pruning.py` suppresses boxes over all classes (IoU > 0.5) and prunes masks on one canvas per class
      (OVERLAP_THRESH, 0.3 in the paper, is the largest fraction of a mask that may be covered). Only instances with
      scores above INSTANCES_CONFIDENCE_THRESH (0.6 in the paper) are used.
    - `panoptic_argmax.py` computes the argmax of Z, with void where the unknown channel wins.
    - `class_assignment.py` determines the class of each instance by a heuristic and applies the stuff area limit.

    Training: `loss_panoptic` is the cross entropy of Z with ground-truth boxes, classes and masks, at the resolution of
    the semantic logits (`training.py`). It has gradients in the mask head and the stuff head. Without it
    (LOSS_WEIGHT 0) a network is trained in the same way as UPSNet-C and UPSNet-CP.

    Deviations from the published code, where the paper does not specify the details:
    - The instances come from the network's single detection pass, which already includes suppression per class. The
      published code starts the suppression over all classes from all boxes, and runs the mask head a second time. This
      project can therefore fuse the instances of any network.
    - Without AT_INPUT_RESOLUTION the head works on the logits at output resolution. With it, as in the published code,
      the argmax is computed at input resolution. Its labels are resized before the class of each instance and the stuff
      area limit are determined.
    - An image without instances has no instance channel, even if all masks were pruned. The published code uses a dummy
      channel of zeros, or the first pruned instance without its mask.
    - Instances that only have `pred_masks` get the mask logits +-10.
    The whole pixels of boxes match the published code, see `boxes.py`.

    Attributes:
        keep_instance_classes: whether every instance keeps its class, regardless of the semantic labels of its pixels.
            Used for ground-truth classes, the "instance class assignment" of the paper's table 6.
    """

    trains = {"loss_panoptic": ("sem_seg_head", "roi_heads")}
    thresholds = {"INSTANCES_CONFIDENCE_THRESH": 0.6, "OVERLAP_THRESH": 0.3, "AT_INPUT_RESOLUTION": True}

    @configurable
    def __init__(
        self,
        *,
        panoptic_loss_weight: float = 1.0,
        unknown: bool = True,
        unknown_fraction: float = 0.3,
        class_assignment: bool = True,
        test_sizes: tuple[int, int] | None = None,
        **kwargs,
    ):
        """Builds the fusion and its panoptic loss.

        Args:
            panoptic_loss_weight: weight of `loss_panoptic`. 0 disables it.
            unknown: whether there is an unknown channel. Without it, training uses all ground-truth instances and
                ignores pixels that would be unknown, and at inference only the area limit makes pixels void.
            unknown_fraction: fraction in [0, 1) of the ground-truth instances that are made unknown in training.
            class_assignment: whether an instance becomes stuff if the stuff head predicts one stuff class for at least
                half of its pixels. See `keep_instance_classes`.
            test_sizes: short side and longest long side of the network's input, to resize labels by the scale factor of
                the image (see `resize_labels`). None resizes by the ratio of the two sizes.
            kwargs: forwarded to `PanopticFusion`.

        Raises:
            ConfigError: if the ontology is not "full", or if a value is out of range.
        """
        super().__init__(**kwargs)
        prefix = "MODEL.PANOPTIC_FUSION.UPSNET"
        if self.ontology != "full":
            raise ConfigError(
                "MODEL.PANOPTIC_FUSION.NAME is UPSNetFusion, which needs a semantic channel of each thing class, but "
                f"MODEL.SEM_SEG_HEAD.ONTOLOGY is {self.ontology!r}: use 'full', or HeuristicFusion"
            )
        if panoptic_loss_weight < 0:
            raise ConfigError(f"{prefix}.LOSS_WEIGHT is {panoptic_loss_weight}: use 0 or more")
        if not 0 <= unknown_fraction < 1:
            raise ConfigError(f"{prefix}.UNKNOWN_FRACTION is {unknown_fraction}: use a number in [0, 1)")
        self.panoptic_loss_weight = float(panoptic_loss_weight)
        self.unknown = bool(unknown)
        self.unknown_fraction = float(unknown_fraction)
        self.keep_instance_classes = not class_assignment
        self.test_sizes = test_sizes

    @classmethod
    def from_config(cls, cfg) -> dict:
        """Returns the constructor arguments from a config."""
        upsnet, inclusive = cfg.MODEL.PANOPTIC_FUSION.UPSNET, cfg.MODEL.BOX_CONVENTION == "inclusive"
        return {
            **super().from_config(cfg),
            "panoptic_loss_weight": upsnet.LOSS_WEIGHT,
            "unknown": upsnet.UNKNOWN,
            "unknown_fraction": upsnet.UNKNOWN_FRACTION,
            "class_assignment": upsnet.CLASS_ASSIGNMENT,
            "test_sizes": (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) if inclusive else None,
        }

    def losses(self, inputs: FusionTrainingInputs, known: list[torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
        """Returns `loss_panoptic`, or nothing if its weight is 0.

        Args:
            inputs: see `FusionTrainingInputs`.
            known: int64 indices, per image, of the ground-truth instances that have a channel, in channel order.
                None draws them at random.
        """
        if self.panoptic_loss_weight == 0:
            return {}
        gt_instances = inputs.gt_instances
        if known is None:
            known = [
                sample_known_instances(len(x), self.unknown_fraction) if self.unknown else torch.arange(len(x))
                for x in gt_instances
            ]
        known = [rows.to(inputs.sem_seg_logits.device) for rows in known]
        num_stuff, stride = self.label_space.num_stuff, inputs.gt_sem_seg.shape[-1] // inputs.sem_seg_logits.shape[-1]
        boxes = [Boxes(x.gt_boxes.tensor[rows]) for x, rows in zip(gt_instances, known, strict=True)]
        classes = [x.gt_classes[rows] for x, rows in zip(gt_instances, known, strict=True)]
        # The mask head also runs for a batch without things, so that all processes take part in synchronized norms.
        mask_logits = inputs.mask_logits_of(boxes, classes)
        targets = panoptic_targets(
            inputs.gt_sem_seg, [x.gt_masks.tensor for x in gt_instances], known,
            num_stuff=num_stuff, stride=stride, unknown=self.unknown,
        )  # fmt: skip
        instances = [KnownInstances(b.tensor, c, m) for b, c, m in zip(boxes, classes, mask_logits, strict=True)]
        loss = panoptic_loss(
            inputs.sem_seg_logits, instances, targets, num_stuff=num_stuff, stride=stride, unknown=self.unknown
        )
        return {"loss_panoptic": self.panoptic_loss_weight * loss}

    def combine(self, sem_seg: SemSegLogits, instances: Instances, size: tuple[int, int] | None) -> PanopticSeg:
        """Prunes the instances and labels every pixel by its highest panoptic logit; see `PanopticFusion.forward`."""
        return fuse_panoptic_head(
            sem_seg,
            instances,
            num_stuff=self.label_space.num_stuff,
            confidence_thresh=self.instances_confidence_thresh,
            overlap_thresh=self.overlap_thresh,
            stuff_area_limit=self.stuff_area_limit,
            unknown=self.unknown,
            keep_instance_classes=self.keep_instance_classes,
            size=size,
            label_scale=shortest_edge_scale(size, *self.test_sizes) if size and self.test_sizes else None,
        )

"""The fusion of OANet (section 3.2): instances are painted by what a small network, the spatial ranking module, says of
their masks, not by detection score."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.config import configurable
from torch import Tensor

from panoptic_fusion.data.label_space import IGNORE_LABEL
from panoptic_fusion.errors import ConfigError
from panoptic_fusion.modeling.fusion.base import PANOPTIC_FUSION_REGISTRY, FusionTrainingInputs
from panoptic_fusion.modeling.fusion.greedy import Scene
from panoptic_fusion.modeling.fusion.heuristic import HeuristicFusion
from panoptic_fusion.modeling.fusion.spatial_ranking_module import (
    SpatialRankingModule,
    cell_pixels,
    class_channels,
    contested_labels,
    ranking_loss,
    ranking_scores,
)

STRIDES = (1, 2, 4, 8)


@PANOPTIC_FUSION_REGISTRY.register()
class SpatialRankingFusion(HeuristicFusion):
    """The heuristic rule in the order of ranking scores.

    Instances of a score of at least INSTANCES_CONFIDENCE_THRESH are put into class channels, from which the spatial
    ranking module computes the probability of each class at each cell. An instance's ranking score is the mean
    probability of its class over its mask; the highest is painted first, in a tie the one of the higher detection
    score. As in the heuristic rule, one of whose pixels more than the fraction OVERLAP_THRESH is covered already is
    dropped. "In inference we only extract the stuff predictions" is MODEL.PANOPTIC_FUSION.STUFF_CHANNELS_ONLY.

    In training it adds `loss_srm`, from ground-truth masks only, so the module learns the same with any network, and
    nothing of it reaches the network. Its parameters are in this fusion (`fusion.srm`).
    """

    @configurable
    def __init__(self, *, kernel: str = "1x7+7x1", stride: int = 4, loss_weight: float = 1.0, **kwargs):
        """
        Args:
            kernel: see `SpatialRankingModule`.
            stride: pixels of the network's input per cell: 1 (the paper), 2, 4 or 8.
            loss_weight: factor of `loss_srm`; 0 leaves the module as it is.
            kwargs: those of `PanopticFusion`.

        Raises:
            ConfigError: a value is outside of its range, or the ontology has no thing classes to learn from.
        """
        super().__init__(**kwargs)
        prefix = "MODEL.PANOPTIC_FUSION.SRM"
        if stride not in STRIDES:
            raise ConfigError(f"{prefix}.STRIDE is {stride}: use one of {', '.join(map(str, STRIDES))}")
        if loss_weight < 0:
            raise ConfigError(f"{prefix}.LOSS_WEIGHT is {loss_weight}: use 0 or more")
        if loss_weight > 0 and self.ontology != "full":
            raise ConfigError(
                f"MODEL.PANOPTIC_FUSION.NAME is SpatialRankingFusion, which learns from the thing classes of the "
                f"semantic labels, but MODEL.SEM_SEG_HEAD.ONTOLOGY is {self.ontology!r}: use 'full', or {prefix}."
                "LOSS_WEIGHT 0 with a module that is trained already"
            )
        self.stride = stride
        self.loss_weight = float(loss_weight)
        self.srm = SpatialRankingModule(self.label_space.num_things, kernel)
        if self.loss_weight == 0:
            self.srm.requires_grad_(False)

    @classmethod
    def from_config(cls, cfg) -> dict:
        srm = cfg.MODEL.PANOPTIC_FUSION.SRM
        return {
            **super().from_config(cfg),
            "kernel": srm.KERNEL,
            "stride": srm.STRIDE,
            "loss_weight": srm.LOSS_WEIGHT,
        }

    def losses(self, inputs: FusionTrainingInputs) -> dict[str, Tensor]:
        """`loss_srm`, from the masks and labels of the ground truth alone; nothing if its weight is 0."""
        if self.loss_weight == 0:
            return {}
        offset = self.stride // 2
        labels = inputs.gt_sem_seg[:, offset :: self.stride, offset :: self.stride]
        labels = torch.where(labels == IGNORE_LABEL, -1, labels - self.label_space.num_stuff)
        channels = torch.zeros(len(labels), self.label_space.num_things, *labels.shape[1:], device=labels.device)
        for own, instances in zip(channels, inputs.gt_instances, strict=True):
            masks = instances.gt_masks.tensor[:, offset :: self.stride, offset :: self.stride]
            found = class_channels(masks, instances.gt_classes, self.label_space.num_things)
            own[:, : found.shape[1], : found.shape[2]] = found
        loss = ranking_loss(self.srm(channels), contested_labels(channels, labels))
        return {"loss_srm": self.loss_weight * loss}

    def order(self, scene: Scene) -> Sequence[int]:
        if len(scene.kept) < 2:
            return scene.kept
        ranks = self.rank(scene).argsort(descending=True, stable=True).tolist()
        return [scene.kept[rank] for rank in ranks]

    def rank(self, scene: Scene) -> Tensor:
        """The ranking scores of the instances in `scene.kept`: (K,) float64 in [0, 1]."""
        device = scene.crops.device
        (height, width), (in_height, in_width) = scene.crops.size, scene.sem_seg.image_size
        kept = torch.tensor(scene.kept, dtype=torch.int64, device=device)
        classes = scene.instances.pred_classes[kept]
        rows = cell_pixels(in_height, self.stride, height, device)
        cols = cell_pixels(in_width, self.stride, width, device)
        masks = scene.crops.sample(kept, rows, cols)
        channels = class_channels(masks, classes, self.label_space.num_things)
        probabilities = self.srm(channels[None])[0].float().softmax(0)
        return ranking_scores(probabilities, masks, classes)

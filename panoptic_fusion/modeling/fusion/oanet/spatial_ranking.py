"""Fusion of OANet (section 3.2): the paint order comes from the spatial ranking module, not from detection scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from detectron2.config import configurable
from detectron2.structures import Instances
from torch import Tensor

from panoptic_fusion.data.label_space import IGNORE_LABEL
from panoptic_fusion.errors import ConfigError
from panoptic_fusion.modeling.fusion.base import PANOPTIC_FUSION_REGISTRY, FusionTrainingInputs
from panoptic_fusion.modeling.fusion.greedy import Scene
from panoptic_fusion.modeling.fusion.heuristic import HeuristicFusion
from panoptic_fusion.modeling.fusion.oanet.cell_masks import CellMasks
from panoptic_fusion.modeling.fusion.oanet.overlapping_masks import one_in_front, overlapping_masks
from panoptic_fusion.modeling.fusion.oanet.spatial_ranking_module import (
    SpatialRankingModule,
    cell_pixels,
    class_channels,
    ranking_loss,
    ranking_targets,
)
from panoptic_fusion.modeling.fusion.oanet.tiled_ranking import prefers_tiles, tiled_probabilities

STRIDES = (1, 2, 4, 8)
ORDERS = ("ranking", "product")
SCORE_CELLS = ("mask", "contested")


def order_by_ranking(kept: Sequence[int], scores: Tensor) -> list[int]:
    """Returns K rows by descending ranking score; in a tie in the order that they have.

    Args:
        kept: indices of the instances.
        scores: (K,) float.
    """
    return [kept[place] for place in scores.argsort(descending=True, stable=True).tolist()]


def rank_by_module(
    scene: Scene, module: Callable[[Tensor], Tensor], *, num_things: int, stride: int, contested_only: bool = False
) -> Tensor:
    """Returns the ranking scores of the K instances in `scene.kept`: (K,) float64 in [0, 1].

    Args:
        scene: masks and classes, on the device of the module.
        module: ranking module.
        num_things: T.
        stride: pixels of `scene.sem_seg.image_size` per cell.
        contested_only: average over the cells of a mask that masks of several classes claim, on which the module was
            trained. A mask without such a cell has the score 1.
    """
    rows, cols = (
        cell_pixels(length, stride, image_length)
        for length, image_length in zip(scene.sem_seg.image_size, scene.crops.size, strict=True)
    )
    classes = [scene.classes[row] for row in scene.kept]
    tiled = prefers_tiles(module, scene.crops.device)
    used = sorted(set(classes)) if tiled else range(num_things)
    masks = CellMasks(scene.crops, scene.kept, [used.index(c) for c in classes], rows, cols)
    channels = masks.class_channels(len(used))
    if tiled:
        probabilities = tiled_probabilities(module, channels, used)
    else:
        probabilities = module(channels[None])[0].float().softmax(0)
    return masks.ranking_scores(probabilities, channels.sum(0) > 1 if contested_only else None)


@PANOPTIC_FUSION_REGISTRY.register()
class SpatialRankingFusion(HeuristicFusion):
    """Heuristic rule in the order of ranking scores.

    Instances with a score of at least INSTANCES_CONFIDENCE_THRESH are mapped to class channels. The spatial ranking
    module computes the probability of each class at each cell from them. The ranking score of an instance is the mean
    probability of its class over its mask. The highest is painted first; a tie is broken by the detection score. As in
    the heuristic rule, an instance is dropped if more than OVERLAP_THRESH of its pixels are already covered. "In
    inference, we only extract the stuff predictions" (section 3.1) corresponds to STUFF_CHANNELS_ONLY.

    The ranking score tells which instance is in front, not which one exists. Between an instance and a false detection,
    or between two detections of the same instance, the detection score is right more often. The order by ranking scores
    therefore needs false detections removed beforehand (INSTANCES_CONFIDENCE_THRESH), or SRM.ORDER "product".

    In training, it adds `loss_srm`. The inputs of the module are the ground-truth masks of the dataset, which overlap
    in an instances JSON. If no masks of an image overlap, as with masks from a panoptic PNG, the inputs are generated
    by `overlapping_masks` and `one_in_front`. The label is the thing class of the semantic ground truth. The module
    therefore trains in the same way with any network, and the loss has no gradient in the network.

    Deviations from the paper:
    - Cells of 4 x 4 pixels instead of pixels (the paper's is SRM.STRIDE 1), because 80 channels at 800 x 1333 would
      take 340 MB.
    - The indicator of equation 4, see `CellMasks.ranking_scores`.
    - The contested pixels that are excluded from the loss, see `ranking_targets`.
    - The generated masks of images without overlaps. SRM.GENERATE_OVERLAPS False uses the masks of the dataset only.
    - STUFF_AREA_LIMIT (4900, section 4.2) applies to all pixels of a stuff class. The paper's "connected stuff area" is
      STUFF_AREA_OF "region".

    Not specified in the paper: the score threshold and the overlap threshold, which are the heuristic rule's.
    """

    trains = {"loss_srm": ("fusion",)}
    thresholds = {"STUFF_AREA_LIMIT": 4900, "STUFF_CHANNELS_ONLY": True}
    uses_network_outputs = False

    @configurable
    def __init__(
        self,
        *,
        kernel: str = "1x7+7x1",
        stride: int = 4,
        loss_weight: float = 1.0,
        order_by: str = "ranking",
        score_over: str = "mask",
        generate_overlaps: bool = True,
        **kwargs,
    ):
        """Builds the fusion and its ranking module.

        Args:
            kernel: kernel name, see `SpatialRankingModule`.
            stride: side of a cell in pixels of the network's input: 1 (the paper), 2, 4 or 8.
            loss_weight: weight of `loss_srm`. 0 freezes the module.
            order_by: "ranking" (the paper) or "product" (ranking score times detection score).
            score_over: cells of an instance that its ranking score averages over: "mask" (all, as in the paper) or
                "contested" (the cells that masks of several classes claim).
            generate_overlaps: whether images without overlapping masks train the module with generated ones.
            kwargs: forwarded to `PanopticFusion`.

        Raises:
            ConfigError: if a value is out of range, or if the ontology has no thing classes to train with.
        """
        super().__init__(**kwargs)
        prefix = "MODEL.PANOPTIC_FUSION.SRM"
        if stride not in STRIDES:
            raise ConfigError(f"{prefix}.STRIDE is {stride}: use one of {', '.join(map(str, STRIDES))}")
        if loss_weight < 0:
            raise ConfigError(f"{prefix}.LOSS_WEIGHT is {loss_weight}: use 0 or more")
        if order_by not in ORDERS:
            raise ConfigError(f"{prefix}.ORDER is {order_by!r}: use one of {', '.join(ORDERS)}")
        if score_over not in SCORE_CELLS:
            raise ConfigError(f"{prefix}.SCORE_OVER is {score_over!r}: use one of {', '.join(SCORE_CELLS)}")
        if loss_weight > 0 and self.ontology != "full":
            raise ConfigError(
                f"MODEL.PANOPTIC_FUSION.NAME is SpatialRankingFusion, which learns from the thing classes of the "
                f"semantic labels, but MODEL.SEM_SEG_HEAD.ONTOLOGY is {self.ontology!r}: use 'full', or {prefix}."
                "LOSS_WEIGHT 0 with a module that is trained already"
            )
        self.stride = stride
        self.loss_weight = float(loss_weight)
        self.order_by = order_by
        self.score_over = score_over
        self.generate_overlaps = generate_overlaps
        self.srm = SpatialRankingModule(self.label_space.num_things, kernel)
        if self.loss_weight == 0:
            self.srm.requires_grad_(False)

    @classmethod
    def from_config(cls, cfg) -> dict:
        """Returns the constructor arguments from a config."""
        srm = cfg.MODEL.PANOPTIC_FUSION.SRM
        return {
            **super().from_config(cfg),
            "kernel": srm.KERNEL,
            "stride": srm.STRIDE,
            "loss_weight": srm.LOSS_WEIGHT,
            "order_by": srm.ORDER,
            "score_over": srm.SCORE_OVER,
            "generate_overlaps": srm.GENERATE_OVERLAPS,
        }

    def losses(self, inputs: FusionTrainingInputs) -> dict[str, Tensor]:
        """Returns `loss_srm`, computed from the ground truth alone, or nothing if its weight is 0."""
        if self.loss_weight == 0:
            return {}
        rows, cols = (cell_pixels(n, self.stride, n, self.device) for n in inputs.gt_sem_seg.shape[-2:])
        labels = inputs.gt_sem_seg[:, rows[:, None], cols]
        labels = torch.where(labels == IGNORE_LABEL, -1, labels - self.label_space.num_stuff)
        channels = torch.zeros(len(labels), self.label_space.num_things, *labels.shape[1:], device=labels.device)
        for own, instances in zip(channels, inputs.gt_instances, strict=True):
            found = class_channels(self._training_masks(instances), instances.gt_classes, len(own))
            own[:, : found.shape[1], : found.shape[2]] = found
        loss = ranking_loss(self.srm(channels), ranking_targets(channels, labels))
        return {"loss_srm": self.loss_weight * loss}

    def order(self, scene: Scene) -> Sequence[int]:
        """Returns the rows of the instances to paint, topmost first."""
        if len(scene.kept) < 2:
            return scene.kept
        scores = self.ranking_scores(scene)
        if self.order_by == "product":
            scores = scores * scene.instances.scores[torch.tensor(scene.kept, device=scores.device)]
        return order_by_ranking(scene.kept, scores)

    def ranking_scores(self, scene: Scene) -> Tensor:
        """Returns the ranking scores of the K instances in `scene.kept`, (K,) float64 in [0, 1]."""
        return rank_by_module(
            scene,
            self.srm,
            num_things=self.label_space.num_things,
            stride=self.stride,
            contested_only=self.score_over == "contested",
        )

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(self.parameters()).device

    def _training_masks(self, instances: Instances) -> Tensor:
        """Returns an image's ground-truth masks at the cells, (R, h, w) bool, made to overlap if none of them do."""
        rows, cols = (cell_pixels(n, self.stride, n, self.device) for n in instances.image_size)
        masks = instances.gt_masks.tensor[:, rows[:, None], cols]
        if not self.generate_overlaps or len(masks) < 2 or (masks.sum(0) > 1).any():
            return masks
        made = overlapping_masks(instances.gt_masks.tensor, instances.gt_boxes.tensor, rows, cols)
        return one_in_front(made, masks)

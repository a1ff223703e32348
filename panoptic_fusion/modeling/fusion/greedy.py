"""The frame of the rules that paint instances one after another: each rule adds its order and its accept decision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.structures import Instances

from panoptic_fusion.modeling.fusion.base import PanopticFusion, PanopticSeg
from panoptic_fusion.modeling.fusion.mask_crops import MaskCrops
from panoptic_fusion.modeling.fusion.paint import Candidate, assemble, paint
from panoptic_fusion.modeling.fusion.sem_seg_logits import SemSegLogits


@dataclass(frozen=True)
class Scene:
    """What is known of one image when instances are ordered and accepted.

    Attributes:
        sem_seg: the semantic logits.
        sem_labels: (H, W) int64, the semantic channel of every pixel.
        instances: all R instances.
        crops: the masks of all R instances.
        kept: rows of the instances of sufficient score, by descending score; in a tie the lower row is first.
    """

    sem_seg: SemSegLogits
    sem_labels: torch.Tensor
    instances: Instances
    crops: MaskCrops
    kept: list[int]


class GreedyFusion(PanopticFusion):
    """Paint the instances in an order, each where no earlier one is; stuff takes what is left.

    A rule defines `accept` and, where it does not paint by descending score, `order`. Both work on tensors and read
    none of them on the host, apart from one read of the order.
    """

    def order(self, scene: Scene) -> Sequence[int]:
        """The rows of the instances to paint, the first on top: `scene.kept` or a rearrangement of it."""
        return scene.kept

    def accept(self, scene: Scene, candidate: Candidate) -> torch.Tensor:
        """Whether to paint a candidate: a 0-d bool tensor."""
        raise NotImplementedError(f"{type(self).__name__} does not define accept().")

    def forward(self, sem_seg: SemSegLogits, instances: Instances) -> PanopticSeg:
        ranking = instances.scores.argsort(descending=True, stable=True)
        table = torch.stack([ranking.double(), instances.scores.double(), instances.pred_classes.double()]).tolist()
        scores, classes = table[1], [int(c) for c in table[2]]
        kept = [row for row in map(int, table[0]) if scores[row] >= self.instances_confidence_thresh]

        scene = Scene(sem_seg, sem_seg.argmax(), instances, MaskCrops.from_instances(instances), kept)
        if scene.crops.size != tuple(scene.sem_labels.shape):
            raise ValueError(f"Masks of size {scene.crops.size} do not fit a map of {tuple(scene.sem_labels.shape)}.")
        painted = paint(scene.crops, self.order(scene), lambda candidate: self.accept(scene, candidate))
        return assemble(
            painted,
            scene.sem_labels,
            scores=scores,
            classes=classes,
            num_stuff=self.label_space.num_stuff,
            stuff_area_limit=self.stuff_area_limit,
        )

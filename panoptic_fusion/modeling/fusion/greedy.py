"""The frame of the rules that paint instances one after another: each rule adds its order and its accept decision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from detectron2.config import configurable
from detectron2.structures import Instances

from panoptic_fusion.modeling.fusion.base import PanopticFusion, PanopticSeg
from panoptic_fusion.modeling.fusion.mask_crops import MaskCrops
from panoptic_fusion.modeling.fusion.paint import Candidate, assemble, paint
from panoptic_fusion.modeling.fusion.resize import resize_labels
from panoptic_fusion.modeling.fusion.sem_seg_logits import SemSegLogits


@dataclass(frozen=True)
class Scene:
    """What is known of one image when instances are ordered and accepted.

    Attributes:
        sem_seg: the semantic logits.
        instances: all R instances.
        crops: the masks of all R instances.
        scores, classes: of all R instances, on the host.
        kept: rows of the instances of sufficient score, by descending score; in a tie the lower row is first.
        num_stuff: S.
    """

    sem_seg: SemSegLogits
    instances: Instances
    crops: MaskCrops
    scores: list[float]
    classes: list[int]
    kept: list[int]
    num_stuff: int

    @cached_property
    def sem_labels(self) -> torch.Tensor:
        """(H, W) int64, the semantic channel of every pixel."""
        return self.sem_seg.argmax()

    @cached_property
    def things_mask(self) -> torch.Tensor:
        """(H, W) bool, the pixels whose semantic label is a thing."""
        return self.sem_labels >= self.num_stuff

    @cached_property
    def things_area(self) -> torch.Tensor:
        """The number of pixels of `things_mask`: a 0-d int64 tensor."""
        return self.things_mask.count_nonzero()


class GreedyFusion(PanopticFusion):
    """Paint the instances in an order, each where no earlier one is; stuff takes what is left.

    A rule defines `accept` and, where it does not paint by descending score, `order`. Both work on tensors and read
    none of them on the host, apart from one read of the order.
    """

    @configurable
    def __init__(self, *, stuff_channels_only: bool = False, **kwargs):
        """
        Args:
            stuff_channels_only: pixels that no instance takes get the best of the stuff classes. Otherwise they get the
                best of all semantic channels, and where that is a thing they become void.
            kwargs: those of `PanopticFusion`.
        """
        super().__init__(**kwargs)
        self.stuff_channels_only = stuff_channels_only

    @classmethod
    def from_config(cls, cfg) -> dict:
        fusion = cls.fill_in(cfg).MODEL.PANOPTIC_FUSION
        return {**super().from_config(cfg), "stuff_channels_only": fusion.STUFF_CHANNELS_ONLY}

    def order(self, scene: Scene) -> Sequence[int]:
        """The rows of the instances to paint, the first on top: `scene.kept` or a rearrangement of it."""
        return scene.kept

    def accept(self, scene: Scene, candidate: Candidate) -> torch.Tensor:
        """Whether to paint a candidate: a 0-d bool tensor."""
        raise NotImplementedError(f"{type(self).__name__} does not define accept().")

    def forward(self, sem_seg: SemSegLogits, instances: Instances, size: tuple[int, int] | None = None) -> PanopticSeg:
        scene = self.scene(sem_seg, instances)
        return self.fuse(scene, self.order(scene), size)

    def scene(self, sem_seg: SemSegLogits, instances: Instances) -> Scene:
        """What `order` and `accept` are asked about; for the arguments see `forward`.

        Raises:
            ValueError: instances and logits are of different output sizes, or instances have no masks.
        """
        ranking = instances.scores.argsort(descending=True, stable=True)
        table = torch.stack([ranking.double(), instances.scores.double(), instances.pred_classes.double()]).tolist()
        scores, classes = table[1], [int(c) for c in table[2]]
        kept = [row for row in map(int, table[0]) if scores[row] >= self.instances_confidence_thresh]
        crops = MaskCrops.from_instances(instances)
        scene = Scene(sem_seg, instances, crops, scores, classes, kept, self.label_space.num_stuff)
        if scene.crops.size != tuple(sem_seg.output_size):
            raise ValueError(f"Masks of size {scene.crops.size} do not fit a map of {tuple(sem_seg.output_size)}.")
        return scene

    def fuse(self, scene: Scene, order: Sequence[int], size: tuple[int, int] | None = None) -> PanopticSeg:
        """The panoptic segmentation (see `forward`) that this rule makes of a scene in a given order."""
        painted = paint(scene.crops, order, lambda candidate: self.accept(scene, candidate))
        return assemble(
            replace(painted, canvas=resize_labels(painted.canvas, size)),
            resize_labels(self._left_over(scene), size),
            scores=scene.scores,
            classes=scene.classes,
            num_stuff=self.label_space.num_stuff,
            stuff_area_limit=self.stuff_area_limit,
        )

    def _left_over(self, scene: Scene) -> torch.Tensor:
        """(H, W) int64: the semantic channel that a pixel gets if no instance takes it."""
        num_stuff = self.label_space.num_stuff
        if self.stuff_channels_only and num_stuff:
            return scene.sem_seg.select(slice(num_stuff)).argmax()
        return scene.sem_labels

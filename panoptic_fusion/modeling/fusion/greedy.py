"""Base class of the rules that paint one instance after another. Each rule adds its order and its accept decision."""

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
    """Inputs of one image for ordering and accepting instances.

    Attributes:
        sem_seg: semantic logits.
        instances: all R instances.
        crops: masks of all R instances.
        scores, classes: scores and classes of all R instances, on the CPU.
        kept: rows of the instances that pass the score threshold, by descending score. In a tie the lower row is first.
        num_stuff: S, the number of stuff classes.
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
        """Semantic channel of every pixel, (H, W) int64."""
        return self.sem_seg.argmax()

    @cached_property
    def things_mask(self) -> torch.Tensor:
        """Pixels whose semantic label is a thing class, (H, W) bool."""
        return self.sem_labels >= self.num_stuff

    @cached_property
    def things_area(self) -> torch.Tensor:
        """Number of pixels of `things_mask`, a 0-d int64 tensor."""
        return self.things_mask.count_nonzero()


class GreedyFusion(PanopticFusion):
    """Base class of greedy rules: instances are painted in order on free pixels, and stuff fills the rest.

    A rule defines `accept`, and `order` if it does not paint by descending score. Both work on tensors and do not copy
    them to the CPU, except for one copy of the order.
    """

    @configurable
    def __init__(self, *, stuff_channels_only: bool = False, **kwargs):
        """
        Args:
            stuff_channels_only: whether pixels without an instance get the best stuff class. Otherwise they get the
                best of all semantic channels, and become void if that is a thing.
            kwargs: forwarded to `PanopticFusion`.
        """
        super().__init__(**kwargs)
        self.stuff_channels_only = stuff_channels_only

    @classmethod
    def from_config(cls, cfg) -> dict:
        """Returns the constructor arguments from a config."""
        fusion = cls.fill_in(cfg).MODEL.PANOPTIC_FUSION
        return {**super().from_config(cfg), "stuff_channels_only": fusion.STUFF_CHANNELS_ONLY}

    def order(self, scene: Scene) -> Sequence[int]:
        """Returns the rows of the instances to paint, topmost first: `scene.kept` or a reordering or subset of it."""
        return scene.kept

    def accept(self, scene: Scene, candidate: Candidate) -> torch.Tensor:
        """Returns whether to paint a candidate, as a 0-d bool tensor."""
        raise NotImplementedError(f"{type(self).__name__} does not define accept().")

    def combine(self, sem_seg: SemSegLogits, instances: Instances, size: tuple[int, int] | None) -> PanopticSeg:
        """Applies the rule to one image; see `PanopticFusion.combine`."""
        scene = self.scene(sem_seg, instances)
        return self.fuse(scene, self.order(scene), size)

    def scene(self, sem_seg: SemSegLogits, instances: Instances) -> Scene:
        """Builds the inputs of `order` and `accept`. The arguments are described in `forward`.

        Raises:
            ValueError: if instances and logits have different output sizes, or if the instances have no masks.
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
        """Returns the panoptic segmentation (see `forward`) of a scene, painted in the given order."""
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
        """Returns the semantic channel of each pixel if no instance covers it, (H, W) int64."""
        num_stuff = self.label_space.num_stuff
        if self.stuff_channels_only and num_stuff:
            return scene.sem_seg.select(slice(num_stuff)).argmax()
        return scene.sem_labels

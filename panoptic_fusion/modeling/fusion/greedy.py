"""Base class of the rules that paint one instance after another. Each rule adds its order and its accept decision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from detectron2.config import configurable
from detectron2.structures import Instances

from panoptic_fusion.decisions import reaches_score
from panoptic_fusion.errors import ConfigError
from panoptic_fusion.modeling.fusion.base import PanopticFusion, PanopticSeg
from panoptic_fusion.modeling.fusion.label_map import LabelMap
from panoptic_fusion.modeling.fusion.mask_crops import MaskCrops, to_windows
from panoptic_fusion.modeling.fusion.paint import Candidate, assemble, paint
from panoptic_fusion.modeling.fusion.resize import resize_labels
from panoptic_fusion.modeling.fusion.sem_seg_logits import SemSegLogits
from panoptic_fusion.modeling.fusion.stuff_regions import STUFF_AREAS, drop_small_regions


@dataclass(frozen=True)
class Scene:
    """Inputs of one image for ordering and accepting instances.

    Attributes:
        sem_seg: semantic logits or labels.
        instances: all R instances.
        crops: masks of all R instances.
        scores, classes: scores and classes of all R instances, on the CPU.
        kept: rows of the instances that pass the score threshold, by descending score. In a tie the lower row is first.
        num_stuff: S, the number of stuff classes.
        num_thing_channels: number of semantic channels after the S stuff channels that are things. None: all of them.
    """

    sem_seg: SemSegLogits | LabelMap
    instances: Instances
    crops: MaskCrops
    scores: list[float]
    classes: list[int]
    kept: list[int]
    num_stuff: int
    num_thing_channels: int | None = None

    @cached_property
    def sem_labels(self) -> torch.Tensor:
        """Semantic channel of every pixel, (H, W) int64."""
        return self.sem_seg.argmax()

    @cached_property
    def things_mask(self) -> torch.Tensor:
        """Pixels whose semantic label is a thing class, (H, W) bool."""
        is_thing = self.sem_labels >= self.num_stuff
        if self.num_thing_channels is None or self.sem_seg.num_channels <= self.num_stuff + self.num_thing_channels:
            return is_thing
        return is_thing & (self.sem_labels < self.num_stuff + self.num_thing_channels)

    @cached_property
    def things_area(self) -> torch.Tensor:
        """Number of pixels of `things_mask`, a 0-d int64 tensor."""
        return self.things_mask.count_nonzero()


Accept = Callable[[Scene, Candidate], torch.Tensor]
"""Decides whether to paint a candidate: a 0-d bool tensor, which is not copied to the CPU."""


def make_scene(
    sem_seg: SemSegLogits | LabelMap,
    instances: Instances,
    *,
    num_stuff: int,
    confidence_thresh: float,
    num_thing_channels: int | None = None,
) -> Scene:
    """Collects the inputs of one image, with one copy to the CPU.

    Args:
        sem_seg, instances: see `PanopticFusion.forward`.
        num_stuff: S, the number of stuff classes.
        confidence_thresh: score threshold; `kept` lacks instances with a lower score.
        num_thing_channels: see `Scene`.

    Raises:
        ValueError: instances and `sem_seg` have different output sizes, or instances have no masks.
    """
    ranking = instances.scores.argsort(descending=True, stable=True)
    crops = MaskCrops.from_instances(instances)
    columns = (ranking.double(), instances.scores, instances.pred_classes, *crops.corners.unbind(1))
    table = torch.stack(columns).tolist()  # of float64
    crops.windows = to_windows(table[3:])
    kept = [int(row) for row in table[0] if reaches_score(table[1][int(row)], confidence_thresh)]
    if crops.size != tuple(sem_seg.output_size):
        raise ValueError(f"Masks of size {crops.size} do not fit a map of {tuple(sem_seg.output_size)}.")
    classes = [int(c) for c in table[2]]
    return Scene(sem_seg, instances, crops, table[1], classes, kept, num_stuff, num_thing_channels)


def fuse_greedily(
    scene: Scene,
    order: Sequence[int],
    accept: Accept,
    *,
    stuff_area_limit: int,
    stuff_channels_only: bool = False,
    stuff_area_of: str = "class",
    size: tuple[int, int] | None = None,
) -> PanopticSeg:
    """Paints instances in the given order, each on pixels that are still free, and then stuff.

    Args:
        scene: inputs of the image.
        order: indices of the instances to paint, the first on top.
        accept: function that decides whether to paint a candidate.
        stuff_area_limit: number of pixels; smaller stuff segments become void.
        stuff_channels_only: see `GreedyFusion`; needs semantic logits.
        stuff_area_of: see `GreedyFusion`.
        size: see `PanopticFusion.forward`.

    Returns:
        the panoptic map and segments_info, see `PanopticFusion.forward`.
    """
    painted = paint(scene.crops, order, partial(accept, scene))
    if stuff_channels_only and scene.num_stuff:
        left_over = scene.sem_seg.select(slice(scene.num_stuff)).argmax()
    else:
        left_over = scene.sem_labels
    painted = replace(painted, canvas=resize_labels(painted.canvas, size))
    left_over = resize_labels(left_over, size)
    if stuff_area_of == "region":
        left_over = drop_small_regions(
            left_over, painted.canvas == 0, num_stuff=scene.num_stuff, limit=stuff_area_limit
        )
        stuff_area_limit = 0
    return assemble(
        painted,
        left_over,
        scores=scene.scores,
        classes=scene.classes,
        num_stuff=scene.num_stuff,
        stuff_area_limit=stuff_area_limit,
    )


class GreedyFusion(PanopticFusion):
    """Base class of greedy rules: instances are painted in order on free pixels, and stuff fills the rest.

    A rule defines `accept`, and `order` if it does not paint by descending score. Both work on tensors and do not copy
    them to the CPU, except for one copy of the order.
    """

    @configurable
    def __init__(self, *, stuff_channels_only: bool = False, stuff_area_of: str = "class", **kwargs):
        """
        Args:
            stuff_channels_only: whether pixels without an instance get the best stuff class. Otherwise they get the
                best of all semantic channels, and become void if that is a thing.
            stuff_area_of: unit that the area limit of stuff applies to: all pixels of a "class", or each of its
                connected "region"s (OANet, section 4.2).
            kwargs: forwarded to `PanopticFusion`.

        Raises:
            ConfigError: if a value is out of range.
        """
        super().__init__(**kwargs)
        if stuff_area_of not in STUFF_AREAS:
            key = "MODEL.PANOPTIC_FUSION.STUFF_AREA_OF"
            raise ConfigError(f"{key} is {stuff_area_of!r}: use one of {', '.join(STUFF_AREAS)}")
        self.stuff_channels_only = stuff_channels_only
        self.stuff_area_of = stuff_area_of

    @classmethod
    def from_config(cls, cfg) -> dict:
        """Returns the constructor arguments from a config."""
        fusion = cls.fill_in(cfg).MODEL.PANOPTIC_FUSION
        return {
            **super().from_config(cfg),
            "stuff_channels_only": fusion.STUFF_CHANNELS_ONLY,
            "stuff_area_of": fusion.STUFF_AREA_OF,
        }

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
        return make_scene(
            sem_seg,
            instances,
            num_stuff=self.label_space.num_stuff,
            confidence_thresh=self.instances_confidence_thresh,
        )

    def fuse(self, scene: Scene, order: Sequence[int], size: tuple[int, int] | None = None) -> PanopticSeg:
        """Returns the panoptic segmentation (see `forward`) of a scene, painted in the given order."""
        return fuse_greedily(
            scene,
            order,
            self.accept,
            stuff_area_limit=self.stuff_area_limit,
            stuff_channels_only=self.stuff_channels_only,
            stuff_area_of=self.stuff_area_of,
            size=size,
        )

"""Function `fuse`, which combines the outputs of any semantic and any instance model with one of the five rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.structures import Instances
from torch import Tensor

from panoptic_fusion.errors import UserError
from panoptic_fusion.modeling.fusion.any_arrays import read_instances, read_masks, read_sem_seg, to_tensor
from panoptic_fusion.modeling.fusion.class_numbers import ClassNumbers
from panoptic_fusion.modeling.fusion.finite import fuse_finite
from panoptic_fusion.modeling.fusion.rules import RULES, RuleInputs, SemanticSide


def fuse(
    sem_seg: Any,
    masks: Any,
    scores: Any,
    classes: Any,
    *,
    stuff_classes: int | Sequence[int],
    thing_classes: int | Sequence[int],
    rule: str = "heuristic",
    boxes: Any = None,
    size: tuple[int, int] | None = None,
    ranking: Any = None,
    **options: Any,
) -> tuple[Any, list[dict]]:
    """Fuses a semantic and an instance segmentation of one image into a panoptic segmentation.

    The networks of this project use the same rules. Arguments are torch tensors or numpy arrays. They are not changed,
    and all are moved to the device of `sem_seg`. Instances with non-finite numbers are dropped. Pixels with non-finite
    semantic logits become void unless an instance covers them.

    Args:
        sem_seg: (C, h, w) float logits or probabilities, or (H, W) integer labels. Logits whose size differs
            from the output are resized bilinearly.
        masks: masks of R instances: (R, H, W) bool or 0 and 1; or R COCO RLEs, which are decoded to their boxes and
            need the least memory; or (R, M, M) float logits on `boxes`, the output of a mask head before the sigmoid.
            None: no instances.
        scores: (R,) float, usually in [0, 1].
        classes: (R,) thing classes.
        stuff_classes, thing_classes: two counts S and T, or two sequences of category ids. With counts, instances have
            the classes 0..T-1. Semantic channels and labels are stuff 0..S-1, then things: S + T channels, or S + 1
            with one channel for all things, or S without things. With ids, a class has the same number in `sem_seg`,
            `classes` and the result. Pixels with any other label become void unless an instance covers them.
        rule: one of `RULES`:
            "heuristic" (Panoptic FPN): paints by score, and drops instances whose mask is covered too much;
            "seamless": the same, but scores must be strictly above the threshold;
            "mask_guided" (TASCNet): also requires that most of the mask are things in the semantic labels;
            "spatial_ranking" (OANet): the heuristic rule in the order of `ranking`;
            "upsnet": assigns each pixel to the highest sum of semantic and mask logits.
        boxes: (R, 4) XYXY with exclusive ends, in pixels of the output. Required for masks on boxes. Pixels of a full
            mask outside its box are ignored, with a margin of one pixel except in "upsnet". None: computed from the
            masks.
        size: (H, W) of the output. None: the size of full masks, or else of `sem_seg`. If `sem_seg` is smaller than the
            output and masks are RLEs or None, pass it so that images without instances get the same size.
        ranking: input of "spatial_ranking": ranking scores (R,), the highest on top, or a trained
            `SpatialRankingModule`, such as `model.fusion.srm` of a trained network.
        options: options in `RULES[rule].options` that differ from the rule's defaults:
            confidence_thresh, overlap_thresh in [0, 1] and stuff_area_limit in pixels (all rules);
            stuff_channels_only: whether pixels without an instance get the best stuff class (all rules except "upsnet";
            requires logits);
            agreement ("coverage" or "iou"), agreement_thresh in [0, 1] ("mask_guided");
            ranking_stride: pixels per cell of the module ("spatial_ranking");
            unknown: whether to add an unknown channel ("upsnet").

    Returns:
        The panoptic map (H, W) int32, 0 = void, segment ids from 1: a tensor on the device of `sem_seg`, or a numpy
        array if `sem_seg` is not a tensor. And segments_info, a list of dicts of Python scalars, things first: id,
        isthing (bool), category_id (a thing class if isthing, else a stuff class), area (pixels), and for things score
        (float) and instance_id (index of the instance).

    Raises:
        UserError: an argument has the wrong shape, dtype or range, or the rule does not have an option or lacks an
            input. The message names the argument.
    """
    inputs = read_inputs(
        sem_seg, masks, scores, classes,
        stuff_classes=stuff_classes, thing_classes=thing_classes, boxes=boxes, size=size, ranking=ranking,
    )  # fmt: skip
    panoptic_seg, segments_info = inputs.fuse(rule, **options)
    return (panoptic_seg if isinstance(sem_seg, Tensor) else panoptic_seg.cpu().numpy()), segments_info


@dataclass(frozen=True)
class ImageInputs:
    """Checked inputs of `fuse` for one image, to fuse them with several rules and options.

    Attributes:
        sem_seg: semantic logits or labels, stuff first.
        instances: R instances, with a field `ranking` if the caller passed ranking scores.
        numbers: numbering of the classes.
        num_thing_channels: number of semantic channels of things; None for a label map.
        ranking_module: spatial ranking module, or None.
    """

    sem_seg: SemanticSide
    instances: Instances
    numbers: ClassNumbers
    num_thing_channels: int | None
    ranking_module: Callable[[Tensor], Tensor] | None

    def of_rule(self, rule: str, options: Mapping[str, Any]) -> RuleInputs:
        """Returns the inputs of a rule in addition to `sem_seg` and `instances`.

        Raises:
            UserError: the rule or an option does not exist, or the rule lacks an input; see `fuse`.
        """
        if rule not in RULES:
            raise UserError(f"rule is {rule!r}: available: {', '.join(RULES)}")
        inputs = RuleInputs(
            self.numbers,
            RULES[rule].read_options(options),
            self.num_thing_channels,
            ranking_module=self.ranking_module,
            has_ranking=self.ranking_module is not None or self.instances.has("ranking"),
            wants_stuff_channels=bool(options.get("stuff_channels_only")),
        )
        RULES[rule].check(self.sem_seg, inputs)
        return inputs

    def fuse(self, rule: str, **options: Any) -> tuple[Tensor, list[dict]]:
        """Fuses the inputs; for options, result and errors see `panoptic_fusion.fuse`."""
        inputs = self.of_rule(rule, options)
        with torch.no_grad():
            panoptic_seg, segments_info = fuse_finite(
                lambda sem_seg, instances, _: RULES[rule].combine(sem_seg, instances, inputs),
                self.sem_seg, self.instances, None, self.numbers.num_stuff,
            )  # fmt: skip
        return panoptic_seg, self.numbers.named(segments_info)


def read_inputs(
    sem_seg: Any,
    masks: Any,
    scores: Any,
    classes: Any,
    *,
    stuff_classes: int | Sequence[int],
    thing_classes: int | Sequence[int],
    boxes: Any = None,
    size: tuple[int, int] | None = None,
    ranking: Any = None,
) -> ImageInputs:
    """Checks and converts the inputs of `fuse` for one image; for arguments and errors see there."""
    numbers = ClassNumbers.of(stuff_classes, thing_classes)
    size = None if size is None else (int(size[0]), int(size[1]))
    semantic = to_tensor(sem_seg, "sem_seg")
    device = semantic.device
    boxes = None if boxes is None else to_tensor(boxes, "boxes").to(device)
    masks, on_boxes = read_masks(masks, boxes, device)
    if size is None and not on_boxes and masks.shape[1] > 0:
        size = (masks.shape[1], masks.shape[2])
    side, num_thing_channels = read_sem_seg(semantic, numbers, size)
    classes = numbers.thing_numbers(_whole(to_tensor(classes, "classes").to(device)))
    instances = read_instances(
        masks, on_boxes, boxes, to_tensor(scores, "scores").to(device), classes, side.output_size
    )
    is_module = callable(ranking)
    if ranking is not None and not is_module:
        instances.ranking = _read_ranking(to_tensor(ranking, "ranking").to(device), len(instances))
    return ImageInputs(side, instances, numbers, num_thing_channels, ranking if is_module else None)


def _whole(classes: Tensor) -> Tensor:
    """Converts classes, which some libraries return as floats, to int64."""
    if classes.is_floating_point() and bool((classes != classes.round()).any()):
        raise UserError("classes must be whole numbers, one per instance")
    return classes.long()


def _read_ranking(ranking: Tensor, num: int) -> Tensor:
    """Checks ranking scores and returns them as (R,) float64."""
    if ranking.numel() != num or (num and ranking.dim() != 1):
        raise UserError(f"ranking has the shape {tuple(ranking.shape)}, but {num} masks need ({num},)")
    if not bool(ranking.double().isfinite().all()):
        raise UserError("ranking has scores that are not finite: leave those instances out")
    return ranking.reshape(num).double()

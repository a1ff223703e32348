"""Function `fuse`, which combines the outputs of any semantic and any instance model with one of the five rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from panoptic_fusion.errors import UserError
from panoptic_fusion.modeling.fusion.any_arrays import read_instances, read_masks, read_sem_seg, to_tensor
from panoptic_fusion.modeling.fusion.class_numbers import ClassNumbers
from panoptic_fusion.modeling.fusion.finite import fuse_finite
from panoptic_fusion.modeling.fusion.rules import RULES, RuleInputs


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
        masks: masks of R instances: (R, H, W) bool or 0 and 1; or R COCO RLEs; or (R, M, M) float logits on `boxes`,
            the output of a mask head before the sigmoid. None: no instances.
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
        boxes: (R, 4) XYXY with exclusive ends, in pixels of the output. Required for masks on boxes. With full masks,
            only "upsnet" uses boxes. None: computed from the masks.
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
    if rule not in RULES:
        raise UserError(f"rule is {rule!r}: available: {', '.join(RULES)}")
    numbers = ClassNumbers.of(stuff_classes, thing_classes)
    values = RULES[rule].read_options(options)
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

    inputs = RuleInputs(
        numbers,
        values,
        num_thing_channels,
        ranking_module=ranking if is_module else None,
        has_ranking=ranking is not None,
        wants_stuff_channels=bool(options.get("stuff_channels_only")),
    )
    RULES[rule].check(side, inputs)
    with torch.no_grad():
        panoptic_seg, segments_info = fuse_finite(
            lambda finite_side, finite_instances, _: RULES[rule].combine(finite_side, finite_instances, inputs),
            side, instances, None, numbers.num_stuff,
        )  # fmt: skip
    return (panoptic_seg if isinstance(sem_seg, Tensor) else panoptic_seg.cpu().numpy()), numbers.named(segments_info)


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

"""`fuse`: combines the outputs of any semantic and any instance model by one of the five rules."""

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

    The networks of this project call the same rules. Arguments are torch tensors or numpy arrays; all of them are moved
    to the device of `sem_seg`. None is changed. Instances with a number that is not finite are dropped, and pixels with
    such semantic logits become void unless an instance takes them.

    Args:
        sem_seg: (C, h, w) float logits or probabilities, or (H, W) integer labels. Logits of another size than the
            output are resized bilinearly.
        masks: of R instances: (R, H, W) bool or 0 and 1; or R COCO RLEs; or (R, M, M) float logits on `boxes`, what a
            mask head returns before the sigmoid. None: no instances.
        scores: (R,) float, usually in [0, 1].
        classes: (R,) thing classes.
        stuff_classes, thing_classes: two counts S and T, or two sequences of category ids. With counts, instances have
            the classes 0..T-1, and semantic channels and labels are stuff 0..S-1, then things (S + T channels, or S + 1
            if one stands for all things, or S without things). With ids, each class has one number in `sem_seg`,
            `classes` and the result; a pixel whose semantic label is neither becomes void unless an instance takes it.
        rule: one of `RULES`:
            "heuristic" (Panoptic FPN): by score, dropped if too much of the mask is covered already;
            "seamless": the same, with scores above the threshold;
            "mask_guided" (TASCNet): also the semantic labels must call most of the mask a thing;
            "spatial_ranking" (OANet): the heuristic rule in the order of `ranking`;
            "upsnet": each pixel to the highest sum of semantic and mask logits.
        boxes: (R, 4) XYXY with exclusive ends, in pixels of the output. Needed for masks on boxes. With full masks only
            "upsnet" looks at them; None: those of the masks.
        size: (H, W) of the output. None: the size of full masks, else of `sem_seg`. Pass it with RLEs or None if
            `sem_seg` is smaller than the output, so that images without instances get the same size.
        ranking: for "spatial_ranking": ranking scores (R,), the highest on top, or a trained `SpatialRankingModule`,
            such as `model.fusion.srm` of a trained network.
        options: thresholds that differ from the rule's own, of those in `RULES[rule].options`:
            confidence_thresh, overlap_thresh in [0, 1] and stuff_area_limit in pixels (all rules);
            stuff_channels_only: pixels without instance get the best stuff class (all but "upsnet"; needs logits);
            agreement ("coverage" or "iou"), agreement_thresh in [0, 1] ("mask_guided");
            ranking_stride: pixels per cell of the module ("spatial_ranking");
            unknown: whether there is an unknown channel ("upsnet").

    Returns:
        the panoptic map (H, W) int32, 0 = void, segment ids from 1: a tensor on the device of `sem_seg`, or a numpy
        array if `sem_seg` is one. And segments_info, a list of dicts of Python scalars, things first: id, isthing
        (bool), category_id (a thing class if isthing, else a stuff class), area (pixels), and for things score (float)
        and instance_id (row of the instances).

    Raises:
        UserError: an argument has the wrong shape, dtype or range, the rule does not have the option, or the rule needs
            something that was not given. The message says what.
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
    """Returns classes as int64; some libraries return them as floats."""
    if classes.is_floating_point() and bool((classes != classes.round()).any()):
        raise UserError("classes must be whole numbers, one per instance")
    return classes.long()


def _read_ranking(ranking: Tensor, num: int) -> Tensor:
    """Returns ranking scores (R,) in float64."""
    if ranking.numel() != num or (num and ranking.dim() != 1):
        raise UserError(f"ranking has the shape {tuple(ranking.shape)}, but {num} masks need ({num},)")
    if not bool(ranking.double().isfinite().all()):
        raise UserError("ranking has scores that are not finite: leave those instances out")
    return ranking.reshape(num).double()

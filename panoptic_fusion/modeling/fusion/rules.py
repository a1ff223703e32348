"""The five fusion rules as functions of one image's outputs, with their options and requirements.

The fusion modules of the networks and `fuse` share the parts that this module combines: paint order, accept decision
and painting of the greedy rules, and UPSNet's panoptic head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from detectron2.structures import Instances
from torch import Tensor

from panoptic_fusion.errors import UserError
from panoptic_fusion.modeling.fusion.base import PanopticFusion
from panoptic_fusion.modeling.fusion.class_numbers import ClassNumbers
from panoptic_fusion.modeling.fusion.finite import PanopticSeg
from panoptic_fusion.modeling.fusion.greedy import Accept, Scene, fuse_greedily, make_scene
from panoptic_fusion.modeling.fusion.heuristic import HeuristicFusion, accept_fitting
from panoptic_fusion.modeling.fusion.label_map import LabelMap
from panoptic_fusion.modeling.fusion.oanet.spatial_ranking import (
    STRIDES,
    SpatialRankingFusion,
    order_by_ranking,
    rank_by_module,
)
from panoptic_fusion.modeling.fusion.oanet.spatial_ranking_module import SpatialRankingModule
from panoptic_fusion.modeling.fusion.seamless import SeamlessFusion, order_above
from panoptic_fusion.modeling.fusion.sem_seg_logits import SemSegLogits
from panoptic_fusion.modeling.fusion.tascnet.mask_guided import (
    AGREEMENT,
    AGREEMENT_THRESH,
    AGREEMENTS,
    MaskGuidedFusion,
    accept_agreed,
)
from panoptic_fusion.modeling.fusion.upsnet.fusion import UPSNetFusion, fuse_panoptic_head

SemanticSide = SemSegLogits | LabelMap

THRESHOLDS = {
    "confidence_thresh": "INSTANCES_CONFIDENCE_THRESH",
    "overlap_thresh": "OVERLAP_THRESH",
    "stuff_area_limit": "STUFF_AREA_LIMIT",
}
"""{option of all rules: key of `PanopticFusion.thresholds` that has its default}."""

GREEDY_THRESHOLDS = {**THRESHOLDS, "stuff_channels_only": "STUFF_CHANNELS_ONLY"}
"""The same for the rules that paint instances one after another."""


@dataclass(frozen=True)
class RuleInputs:
    """Inputs of a rule, in addition to the semantic logits or labels and the instances.

    Attributes:
        classes: numbering of the S stuff and T thing classes.
        options: {option of the rule: value}.
        num_thing_channels: number of semantic channels of things, after the S stuff channels; None for a label map.
        ranking_module: spatial ranking module, if the caller passed one.
        has_ranking: whether such a module exists, or the instances have a field `ranking`.
        wants_stuff_channels: whether the caller set `stuff_channels_only`. A rule's own default for it has no effect on
            a label map.
    """

    classes: ClassNumbers
    options: Mapping[str, Any]
    num_thing_channels: int | None
    ranking_module: Callable[[Tensor], Tensor] | None = None
    has_ranking: bool = False
    wants_stuff_channels: bool = False


@dataclass(frozen=True)
class Rule:
    """One of the five rules.

    Attributes:
        name: name of the rule, the argument `rule` of `fuse`.
        fusion: fusion module that networks use for the rule.
        combine: function that returns the panoptic segmentation.
        thresholds: {option: key of `PanopticFusion.thresholds`}.
        extras: {further option: default}.
    """

    name: str
    fusion: type[PanopticFusion]
    combine: Callable[[SemanticSide, Instances, RuleInputs], PanopticSeg]
    thresholds: Mapping[str, str] = field(default_factory=lambda: GREEDY_THRESHOLDS)
    extras: Mapping[str, Any] = field(default_factory=dict)

    @property
    def options(self) -> dict[str, Any]:
        """{option: default}."""
        defaults = self.fusion.all_thresholds()
        return {**{option: defaults[key] for option, key in self.thresholds.items()}, **self.extras}

    def read_options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the value of every option; options that are None or not given have the rule's default.

        Raises:
            UserError: the rule does not have an option, or a value is out of range.
        """
        options = self.options
        for name, value in given.items():
            if name not in options:
                raise UserError(f"rule {self.name!r} has no option {name!r}: available: {', '.join(options)}")
            if value is not None:
                is_valid, expected = RANGES[name]
                if not is_valid(value):
                    raise UserError(f"{name} is {value!r}: pass {expected}")
                options[name] = value
        return options

    def check(self, sem_seg: SemanticSide, inputs: RuleInputs) -> None:
        """Checks that the rule has all inputs that it needs.

        Raises:
            UserError: an input is missing, or an input was passed that the rule does not use.
        """
        needs, num_things, channels = f"rule {self.name!r} needs", inputs.classes.num_things, inputs.num_thing_channels
        is_map = isinstance(sem_seg, LabelMap)
        if self.name == "upsnet":
            if is_map:
                raise UserError(f"{needs} semantic logits (C, H, W), but sem_seg is a label map; use 'heuristic'")
            if channels != num_things:
                raise UserError(
                    f"{needs} semantic logits of each of the {num_things} thing classes, but sem_seg has {channels} "
                    "channels of things; use 'heuristic'"
                )
            if _are_probabilities(sem_seg.logits):
                raise UserError(
                    f"{needs} semantic logits, but sem_seg has probabilities: pass the input of the softmax"
                )
        if self.name == "mask_guided" and channels == 0:
            raise UserError(f"{needs} semantic logits or labels of things, but sem_seg has only stuff; use 'heuristic'")
        if is_map and inputs.wants_stuff_channels:
            raise UserError("stuff_channels_only needs semantic logits (C, H, W), but sem_seg is a label map")
        if (self.name == "spatial_ranking") != inputs.has_ranking:
            raise UserError(
                f"rule {self.name!r} does not use ranking: use 'spatial_ranking', or leave it out"
                if inputs.has_ranking
                else f"{needs} ranking: scores (R,), the highest on top, or a trained SpatialRankingModule"
            )
        module = inputs.ranking_module
        if isinstance(module, SpatialRankingModule) and module.num_classes != num_things:
            raise UserError(
                f"ranking is a module for {module.num_classes} thing classes, but thing_classes has {num_things}"
            )


def _greedy(
    sem_seg: SemanticSide,
    instances: Instances,
    inputs: RuleInputs,
    *,
    order: Callable[[Scene, RuleInputs], Sequence[int]] = lambda scene, _: scene.kept,
    accept: Callable[[RuleInputs], Accept] = lambda inputs: partial(
        accept_fitting, overlap_thresh=inputs.options["overlap_thresh"]
    ),
) -> PanopticSeg:
    options = inputs.options
    scene = make_scene(
        sem_seg,
        instances,
        num_stuff=inputs.classes.num_stuff,
        confidence_thresh=options["confidence_thresh"],
        num_thing_channels=inputs.num_thing_channels
        if inputs.num_thing_channels is not None
        else inputs.classes.num_things,
    )
    return fuse_greedily(
        scene,
        order(scene, inputs),
        accept(inputs),
        stuff_area_limit=options["stuff_area_limit"],
        stuff_channels_only=options["stuff_channels_only"] and isinstance(sem_seg, SemSegLogits),
    )


def _order_above(scene: Scene, inputs: RuleInputs) -> Sequence[int]:
    return order_above(scene, inputs.options["confidence_thresh"])


def _order_by_ranking(scene: Scene, inputs: RuleInputs) -> Sequence[int]:
    if inputs.ranking_module is None:
        return order_by_ranking(scene.kept, scene.instances.ranking[scene.kept])
    if len(scene.kept) < 2:
        return scene.kept
    scores = rank_by_module(
        scene, inputs.ranking_module, num_things=inputs.classes.num_things, stride=inputs.options["ranking_stride"]
    )
    return order_by_ranking(scene.kept, scores)


def _accept_agreed(inputs: RuleInputs) -> Accept:
    names = ("overlap_thresh", "agreement", "agreement_thresh")
    return partial(accept_agreed, **{name: inputs.options[name] for name in names})


def _upsnet(sem_seg: SemanticSide, instances: Instances, inputs: RuleInputs) -> PanopticSeg:
    num_stuff, options = inputs.classes.num_stuff, inputs.options
    if sem_seg.num_channels > num_stuff + inputs.classes.num_things:
        sem_seg = sem_seg.select(slice(num_stuff + inputs.classes.num_things))
    return fuse_panoptic_head(sem_seg, instances, num_stuff=num_stuff, **options)


def _are_probabilities(logits: Tensor) -> bool:
    """Returns whether no value is negative and the channels of each pixel sum to 1."""
    return bool((logits >= 0).all() & ((logits.float().sum(0) - 1).abs() < 1e-2).all())


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_FRACTION = (lambda value: _is_number(value) and 0 <= value <= 1, "a number in [0, 1]")
_BOOL = (lambda value: isinstance(value, bool), "True or False")
RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "confidence_thresh": _FRACTION,
    "overlap_thresh": _FRACTION,
    "stuff_area_limit": (lambda value: _is_number(value) and value >= 0, "0 or more pixels"),
    "stuff_channels_only": _BOOL,
    "agreement": (lambda value: value in AGREEMENTS, f"one of {', '.join(AGREEMENTS)}"),
    "agreement_thresh": _FRACTION,
    "ranking_stride": (lambda value: value in STRIDES, f"one of {', '.join(map(str, STRIDES))}"),
    "unknown": _BOOL,
}
"""{option: (function that checks a value, description of the allowed values)}."""

RULES = {
    rule.name: rule
    for rule in (
        Rule("heuristic", HeuristicFusion, _greedy),
        Rule("seamless", SeamlessFusion, partial(_greedy, order=_order_above)),
        Rule(
            "mask_guided",
            MaskGuidedFusion,
            partial(_greedy, accept=_accept_agreed),
            extras={"agreement": AGREEMENT, "agreement_thresh": AGREEMENT_THRESH},
        ),
        Rule(
            "spatial_ranking",
            SpatialRankingFusion,
            partial(_greedy, order=_order_by_ranking),
            extras={"ranking_stride": 4},
        ),
        Rule("upsnet", UPSNetFusion, _upsnet, THRESHOLDS, {"unknown": True}),
    )
}
"""{name: rule}."""

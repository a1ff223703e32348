"""Settings of a fusion, as an exported model stores them in its metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from panoptic_fusion.errors import UserError


@dataclass(frozen=True)
class FusionSettings:
    """Settings of one of the five fusions; the names are the attributes of the fusion modules in `modeling`.

    Settings without a default are needed by every fusion. The others are needed by the fusions in the comment.
    """

    name: str
    instances_confidence_thresh: float
    overlap_thresh: float
    stuff_area_limit: int
    at_input_resolution: bool
    # all but UPSNetFusion
    stuff_channels_only: bool = False
    stuff_area_of: str = "class"
    # MaskGuidedFusion
    agreement: str = "coverage"
    agreement_thresh: float = 0.7
    overlap: str = "coverage"
    # SpatialRankingFusion
    stride: int = 4
    order_by: str = "ranking"
    score_over: str = "mask"
    # UPSNetFusion
    unknown: bool = True
    keep_instance_classes: bool = False
    test_sizes: tuple[int, int] | None = None

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> FusionSettings:
        """Reads the settings from the metadata.

        Raises:
            UserError: if a setting is missing or unknown, or has the wrong type.
        """
        name = values.get("name")
        if name not in NEEDED:
            raise UserError(f"fusion.name is {name!r}: this version can run {', '.join(NEEDED)}")
        needed = needed_settings(name)
        for key in sorted(needed):
            if key not in values:
                raise UserError(f"fusion.{key} is missing")
        for key, value in values.items():
            if key not in needed:
                raise UserError(f"fusion.{key} is not a setting of {name}")
            if not _CHECKS[key](value):
                raise UserError(f"fusion.{key} is {value!r}")
        sizes = values.get("test_sizes")
        return cls(**{**values, "test_sizes": tuple(sizes) if sizes else None})


_GREEDY = frozenset({"stuff_channels_only", "stuff_area_of"})
NEEDED: Mapping[str, frozenset[str]] = {
    "HeuristicFusion": _GREEDY,
    "SeamlessFusion": _GREEDY,
    "MaskGuidedFusion": _GREEDY | {"agreement", "agreement_thresh", "overlap"},
    "SpatialRankingFusion": _GREEDY | {"stride", "order_by", "score_over"},
    "UPSNetFusion": frozenset({"unknown", "keep_instance_classes", "test_sizes"}),
}
"""{fusion: settings that it needs in addition to the common ones}."""


def needed_settings(name: str) -> frozenset[str]:
    """Returns the names of all settings of a fusion in `NEEDED`, including "name"."""
    return NEEDED[name] | {field.name for field in fields(FusionSettings) if field.default is MISSING}


def _is_fraction(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def is_count(value: Any, least: int = 0) -> bool:
    """Returns whether a value is a whole number of at least `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_pair(value: Any) -> bool:
    """Returns whether a value consists of two positive whole numbers."""
    return isinstance(value, list | tuple) and len(value) == 2 and all(is_count(v, 1) for v in value)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


_CHECKS = {
    "name": lambda value: value in NEEDED,
    "instances_confidence_thresh": _is_fraction,
    "overlap_thresh": _is_fraction,
    "stuff_area_limit": is_count,
    "at_input_resolution": _is_bool,
    "stuff_channels_only": _is_bool,
    "stuff_area_of": lambda value: value in ("class", "region"),
    "agreement": lambda value: value in ("coverage", "iou"),
    "agreement_thresh": _is_fraction,
    "overlap": lambda value: value in ("coverage", "iou"),
    "stride": lambda value: is_count(value, 1),
    "order_by": lambda value: value in ("ranking", "product"),
    "score_over": lambda value: value in ("mask", "contested"),
    "unknown": _is_bool,
    "keep_instance_classes": _is_bool,
    "test_sizes": lambda value: value is None or is_pair(value),
}

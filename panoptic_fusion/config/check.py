"""Validates a config before anything is built: the names of its parts, its choices and its numbers."""

import math
from functools import reduce
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import (
    ANCHOR_GENERATOR_REGISTRY,
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
)
from detectron2.modeling.proposal_generator import RPN_HEAD_REGISTRY

from panoptic_fusion.errors import ConfigError
from panoptic_fusion.modeling.backbone.pyramid import PYRAMIDS
from panoptic_fusion.modeling.fusion import OUTPUT_REGISTRY, PANOPTIC_FUSION_REGISTRY
from panoptic_fusion.modeling.things import PanopticROIHeads

from .plugins import missing_plugins
from .read import leaves
from .values import rule_of

WITH_OWN_BOTTOM_UP = {"build_resnet_fpn_backbone", "build_retinanet_resnet_fpn_backbone"}
DEFAULT_BOTTOM_UP = "build_resnet_backbone"

# Former values of MODEL.BACKBONE.NAME, with the pyramid and the network that replace them.
REPLACED_BACKBONES = {
    "build_resnet_gap_fpn_backbone": ("build_gap_fpn_backbone", "build_deformable_resnet_backbone"),
    "build_narrow_resnet_gap_fpn_backbone": ("build_gap_fpn_backbone", "build_narrow_resnet_backbone"),
    "build_narrow_resnet_fpn_backbone": ("build_fpn_backbone", "build_narrow_resnet_backbone"),
    "build_narrow_resnet_context_fpn_backbone": ("build_context_fpn_backbone", "build_narrow_resnet_backbone"),
    "build_abn_resnet_fpn_backbone": ("build_abn_fpn_backbone", "build_abn_resnet_backbone"),
    "build_narrow_abn_resnet_fpn_backbone": ("build_abn_fpn_backbone", "build_narrow_abn_resnet_backbone"),
}


def _any(name: str, part: Any) -> bool:
    return True


def _not_of_detectron2(name: str, part: Any) -> bool:
    """Excludes detectron2's own networks and stuff head, which lack a fusion and the interface of `StuffHead`."""
    return not part.__module__.startswith("detectron2.")


def _no_pyramid(name: str, part: Any) -> bool:
    return name not in PYRAMIDS | WITH_OWN_BOTTOM_UP


def _with_mask_logits(name: str, part: Any) -> bool:
    return issubclass(part, PanopticROIHeads)


# KEY: the registry of its names, and a function that returns whether a registered part can be used for the key.
PARTS = {
    "MODEL.META_ARCHITECTURE": (META_ARCH_REGISTRY, _not_of_detectron2),
    "MODEL.BACKBONE.NAME": (BACKBONE_REGISTRY, _any),
    "MODEL.BACKBONE.BOTTOM_UP": (BACKBONE_REGISTRY, _no_pyramid),
    "MODEL.ANCHOR_GENERATOR.NAME": (ANCHOR_GENERATOR_REGISTRY, _any),
    "MODEL.PROPOSAL_GENERATOR.NAME": (PROPOSAL_GENERATOR_REGISTRY, _any),
    "MODEL.RPN.HEAD_NAME": (RPN_HEAD_REGISTRY, _any),
    "MODEL.ROI_HEADS.NAME": (ROI_HEADS_REGISTRY, _with_mask_logits),
    "MODEL.ROI_BOX_HEAD.NAME": (ROI_BOX_HEAD_REGISTRY, _any),
    "MODEL.ROI_MASK_HEAD.NAME": (ROI_MASK_HEAD_REGISTRY, _any),
    "MODEL.SEM_SEG_HEAD.NAME": (SEM_SEG_HEADS_REGISTRY, _not_of_detectron2),
    "MODEL.PANOPTIC_FUSION.NAME": (PANOPTIC_FUSION_REGISTRY, _any),
}


def check_parts(cfg: CfgNode) -> None:
    """Checks the names of the parts and their requirements on each other.

    Args:
        cfg: config with the project's keys.

    Raises:
        ConfigError: if a part does not exist or cannot be used. The message names the key and the available parts.
    """
    if cfg.MODEL.BACKBONE.NAME in REPLACED_BACKBONES:
        pyramid, network = REPLACED_BACKBONES[cfg.MODEL.BACKBONE.NAME]
        raise ConfigError(
            f"MODEL.BACKBONE.NAME is {cfg.MODEL.BACKBONE.NAME!r}, which no longer exists: set MODEL.BACKBONE.NAME "
            f"{pyramid} and MODEL.BACKBONE.BOTTOM_UP {network}"
        )
    for key, (registry, works) in PARTS.items():
        known = sorted(name for name, part in registry if works(name, part))
        if get_config_value(cfg, key) not in known:
            missing = missing_plugins(cfg.get("PLUGINS"))
            raise ConfigError(f"{key} is {shown(get_config_value(cfg, key))}; available: {', '.join(known)}{missing}")
    name, bottom_up = cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.BOTTOM_UP
    if name not in PYRAMIDS and bottom_up != DEFAULT_BOTTOM_UP:
        raise ConfigError(
            f"MODEL.BACKBONE.NAME is {name!r}, which has its own network: MODEL.BACKBONE.BOTTOM_UP {bottom_up} "
            f"requires one of {', '.join(sorted(PYRAMIDS))}"
        )
    convention = cfg.MODEL.BOX_CONVENTION
    for key in ("MODEL.PROPOSAL_GENERATOR.NAME", "MODEL.ROI_HEADS.NAME"):
        possible = getattr(PARTS[key][0].get(get_config_value(cfg, key)), "box_conventions", ("exclusive",))
        if convention not in possible:
            raise ConfigError(
                f"MODEL.BOX_CONVENTION is {convention!r}, but {key} {get_config_value(cfg, key)} has none but "
                f"{' and '.join(map(repr, possible))}: use that, or another {key}"
            )
    architecture = cfg.MODEL.META_ARCHITECTURE
    if cfg.MODEL.SHARING != "skip" and not getattr(META_ARCH_REGISTRY.get(architecture), "has_two_branches", False):
        raise ConfigError(
            f"MODEL.SHARING is {cfg.MODEL.SHARING!r}, but MODEL.META_ARCHITECTURE {architecture} has no two branches: "
            "set it to 'skip'"
        )


def check_values(cfg: CfgNode) -> None:
    """Checks the value of each key against the table in values.py, and the requirements of keys on each other.

    Raises:
        ConfigError: if a value is not among the choices or out of range. The message names the key and the range.
    """
    for key, value in leaves(cfg):
        rule = rule_of(key)
        if rule is not None and not rule.holds(value):
            raise ConfigError(f"{key} is {shown(value)}: use {rule.words}")
        if rule is None and isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{key} is {value}: use a finite number")
    _check_together(cfg)
    wanted = list(cfg.MODEL.PANOPTIC_FUSION.OUTPUTS)
    if not set(wanted) <= known_outputs():
        raise ConfigError(
            f"MODEL.PANOPTIC_FUSION.OUTPUTS is {shown(wanted)}; it holds some of {sorted(known_outputs())}"
        )
    if "things_masks" in wanted and cfg.MODEL.SEM_SEG_HEAD.ONTOLOGY == "stuff":
        raise ConfigError(
            "MODEL.PANOPTIC_FUSION.OUTPUTS has 'things_masks', but MODEL.SEM_SEG_HEAD.ONTOLOGY 'stuff' has no things"
        )


def _check_together(cfg: CfgNode) -> None:
    """Checks keys that depend on each other."""
    for section in ("RPN", "ROI_HEADS", "RETINANET"):
        thresholds, labels = cfg.MODEL[section].IOU_THRESHOLDS, cfg.MODEL[section].IOU_LABELS
        if len(labels) != len(thresholds) + 1:
            raise ConfigError(
                f"MODEL.{section}.IOU_LABELS has {len(labels)} labels for {len(thresholds)} IOU_THRESHOLDS: give one "
                "more than those"
            )
    if (
        cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range"
        and not cfg.INPUT.SCALE_JITTER
        and len(cfg.INPUT.MIN_SIZE_TRAIN) != 2
    ):
        raise ConfigError(
            f"INPUT.MIN_SIZE_TRAIN is {cfg.INPUT.MIN_SIZE_TRAIN}: use two numbers (low, high) for "
            "INPUT.MIN_SIZE_TRAIN_SAMPLING 'range'"
        )
    crop = cfg.INPUT.CROP
    if crop.TYPE.startswith("relative") and max(crop.SIZE) > 1:
        raise ConfigError(f"INPUT.CROP.SIZE is {crop.SIZE}: use shares of the image in (0, 1] for TYPE {crop.TYPE!r}")
    if crop.TYPE.startswith("absolute") and not all(type(side) is int for side in crop.SIZE):
        raise ConfigError(f"INPUT.CROP.SIZE is {crop.SIZE}: use whole numbers of pixels for TYPE {crop.TYPE!r}")
    solver = cfg.SOLVER
    if solver.REFERENCE_WORLD_SIZE and solver.IMS_PER_BATCH % solver.REFERENCE_WORLD_SIZE:
        raise ConfigError(
            f"SOLVER.REFERENCE_WORLD_SIZE is {solver.REFERENCE_WORLD_SIZE}: use a number that divides "
            f"SOLVER.IMS_PER_BATCH ({solver.IMS_PER_BATCH}), or 0"
        )
    if solver.LR_SCHEDULER_NAME == "WarmupCosineLR" and solver.BASE_LR_END > solver.BASE_LR:
        raise ConfigError(f"SOLVER.BASE_LR_END is {solver.BASE_LR_END}: use BASE_LR ({solver.BASE_LR}) or less")
    if solver.NESTEROV and solver.MOMENTUM == 0:
        raise ConfigError("SOLVER.NESTEROV is True: set SOLVER.MOMENTUM above 0")


def shown(value: Any) -> str:
    """Returns the repr of a value, shortened to fit into a message."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}... ({len(text)} characters)"


def known_outputs() -> set[str]:
    """Returns the names that MODEL.PANOPTIC_FUSION.OUTPUTS may list."""
    return {"sem_seg", "instances", "panoptic_seg", *(name for name, _ in OUTPUT_REGISTRY)}


def possible_outputs(architecture: type) -> set[str]:
    """Returns the names in MODEL.PANOPTIC_FUSION.OUTPUTS that a meta-architecture supports.

    Args:
        architecture: class in META_ARCH_REGISTRY; its attribute `possible_outputs`, if it has one, limits the names.
    """
    return set(getattr(architecture, "possible_outputs", known_outputs()))


def get_config_value(cfg: CfgNode, key: str) -> Any:
    """Returns the value of a key such as "MODEL.BACKBONE.NAME"."""
    return reduce(getattr, key.split("."), cfg)

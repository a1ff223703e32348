"""What a config may say, checked before anything is built: the names of its parts, its choices and its numbers."""

from collections.abc import Callable
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

from panoptic_fusion.checkpoint.class_rows import LAYOUTS
from panoptic_fusion.checkpoint.transfer import TRANSFERS
from panoptic_fusion.data.label_space import IGNORE_LABEL, ONTOLOGIES
from panoptic_fusion.errors import ConfigError
from panoptic_fusion.modeling.backbone.branches import SHARING_MODES
from panoptic_fusion.modeling.backbone.pyramid import PYRAMIDS
from panoptic_fusion.modeling.fusion import OUTPUT_REGISTRY, PANOPTIC_FUSION_REGISTRY
from panoptic_fusion.modeling.things import PanopticROIHeads

from .plugins import missing_plugins

WITH_OWN_BOTTOM_UP = {"build_resnet_fpn_backbone", "build_retinanet_resnet_fpn_backbone"}
DEFAULT_BOTTOM_UP = "build_resnet_backbone"

# Former values of MODEL.BACKBONE.NAME: the pyramid and the network that replace them.
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
    """detectron2's own networks have no fusion, and its stuff head not the interface of `StuffHead`."""
    return not part.__module__.startswith("detectron2.")


def _no_pyramid(name: str, part: Any) -> bool:
    return name not in PYRAMIDS | WITH_OWN_BOTTOM_UP


def _with_mask_logits(name: str, part: Any) -> bool:
    return issubclass(part, PanopticROIHeads)


# KEY: where its names are registered, and which of the registered parts work here.
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

CHOICES = {
    "MODEL.SEM_SEG_HEAD.ONTOLOGY": ONTOLOGIES,
    "MODEL.SHARING": SHARING_MODES,
    "MODEL.WEIGHTS_LAYOUT": ("", *LAYOUTS),
    "MODEL.TRANSFER": TRANSFERS,
    "DATASETS.UNANNOTATED": ("skip", "negatives"),
    "INPUT.FORMAT": ("BGR", "RGB"),
    "INPUT.CROP.TYPE": ("relative_range", "relative", "absolute", "absolute_range"),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": ("choice", "range"),
    "SOLVER.LR_SCHEDULER_NAME": ("WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR"),
    "SOLVER.WARMUP_METHOD": ("linear", "constant"),
}


def _number_or_none(value: Any) -> bool:
    return value is None or type(value) in (int, float)


def _count_or_none(value: Any) -> bool:
    return value is None or type(value) is int


def _bool_or_none(value: Any) -> bool:
    return value is None or type(value) is bool


# KEY: what its value must fulfil, and the same in words.
RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "MODEL.SEM_SEG_HEAD.IGNORE_VALUE": (lambda v: v == IGNORE_LABEL, f"{IGNORE_LABEL}, as the labels have"),
    "MODEL.SEM_SEG_HEAD.HARD_PIXEL_FRACTION": (lambda v: 0 < v <= 1, "a number in (0, 1]"),
    # Their ranges are checked by the fusion, which has values for those that are None.
    "MODEL.PANOPTIC_FUSION.INSTANCES_CONFIDENCE_THRESH": (_number_or_none, "a number in [0, 1], or None: the fusion's"),
    "MODEL.PANOPTIC_FUSION.OVERLAP_THRESH": (_number_or_none, "a number in [0, 1], or None: the fusion's"),
    "MODEL.PANOPTIC_FUSION.STUFF_AREA_LIMIT": (_count_or_none, "a number of pixels, or None: the fusion's"),
    "MODEL.PANOPTIC_FUSION.STUFF_CHANNELS_ONLY": (_bool_or_none, "True, False, or None: the fusion's"),
    "MODEL.PANOPTIC_FUSION.AT_INPUT_RESOLUTION": (_bool_or_none, "True, False, or None: the fusion's"),
    "MODEL.MASK_ON": (lambda v: v, "True, since the fusions need mask logits"),
    "MODEL.KEYPOINT_ON": (lambda v: not v, "False, since this project does not have it"),
    "TEST.AUG.ENABLED": (lambda v: not v, "False, since this project does not have it"),
    "MODEL.PIXEL_MEAN": (lambda v: len(v) == 3, "three numbers"),
    "MODEL.PIXEL_STD": (lambda v: len(v) == 3 and min(v) > 0, "three numbers above 0"),
    "INPUT.MIN_SIZE_TRAIN": (lambda v: len(v) > 0 and min(v) >= 1, "one or more numbers of 1 or more"),
    "INPUT.MAX_SIZE_TRAIN": (lambda v: v >= 1, "1 or more"),
    "INPUT.MIN_SIZE_TEST": (lambda v: v >= 0, "1 or more, or 0 for the size of the image"),
    "INPUT.MAX_SIZE_TEST": (lambda v: v >= 1, "1 or more"),
    "INPUT.PIXEL_BUDGET": (lambda v: v >= 0, "0 (sizes stay as they are) or more"),
    "DATALOADER.NUM_WORKERS": (lambda v: v >= 0, "0 or more"),
    "SOLVER.MAX_ITER": (lambda v: v >= 1, "1 or more (--eval-only evaluates without a training)"),
    "SOLVER.IMS_PER_BATCH": (lambda v: v >= 1, "1 or more"),
    "SOLVER.CHECKPOINT_PERIOD": (lambda v: v >= 1, "1 or more"),
    "SOLVER.WARMUP_ITERS": (lambda v: v >= 0, "0 or more"),
    "SOLVER.GRADIENT_BALANCE_PERIOD": (lambda v: v >= 0, "0 (never) or more"),
    "SOLVER.BASE_LR": (lambda v: v > 0, "a number above 0"),
}


def check_parts(cfg: CfgNode) -> None:
    """Checks the names of the parts and what they need of each other.

    Args:
        cfg: a config with the project's keys.

    Raises:
        ConfigError: a part does not exist or cannot work; the message names the key and the parts that can.
    """
    if cfg.MODEL.BACKBONE.NAME in REPLACED_BACKBONES:
        pyramid, network = REPLACED_BACKBONES[cfg.MODEL.BACKBONE.NAME]
        raise ConfigError(
            f"MODEL.BACKBONE.NAME is {cfg.MODEL.BACKBONE.NAME!r}, which no longer exists: set MODEL.BACKBONE.NAME "
            f"{pyramid} and MODEL.BACKBONE.BOTTOM_UP {network}"
        )
    for key, (registry, works) in PARTS.items():
        known = sorted(name for name, part in registry if works(name, part))
        if value_of(cfg, key) not in known:
            missing = missing_plugins(cfg.get("PLUGINS"))
            raise ConfigError(f"{key} is {value_of(cfg, key)!r}; there are: {', '.join(known)}{missing}")
    name, bottom_up = cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.BOTTOM_UP
    if name not in PYRAMIDS and bottom_up != DEFAULT_BOTTOM_UP:
        raise ConfigError(
            f"MODEL.BACKBONE.NAME is {name!r}, which has a network of its own: MODEL.BACKBONE.BOTTOM_UP {bottom_up} "
            f"goes with {', '.join(sorted(PYRAMIDS))}"
        )
    architecture = cfg.MODEL.META_ARCHITECTURE
    if cfg.MODEL.SHARING != "skip" and not getattr(META_ARCH_REGISTRY.get(architecture), "has_two_branches", False):
        raise ConfigError(
            f"MODEL.SHARING is {cfg.MODEL.SHARING!r}, but MODEL.META_ARCHITECTURE {architecture} has no two branches: "
            "set it to 'skip'"
        )


def check_values(cfg: CfgNode) -> None:
    """Checks choices and numbers, by the tables above.

    Raises:
        ConfigError: a value is not among the choices or out of range; the message names the key and the range.
    """
    for key, choices in CHOICES.items():
        if value_of(cfg, key) not in choices:
            known = ", ".join(choice or "''" for choice in choices)
            raise ConfigError(f"{key} is {value_of(cfg, key)!r}; there are: {known}")
    for key, (holds, words) in RULES.items():
        if not holds(value_of(cfg, key)):
            raise ConfigError(f"{key} is {value_of(cfg, key)!r}: use {words}")
    wanted = list(cfg.MODEL.PANOPTIC_FUSION.OUTPUTS)
    if not set(wanted) <= known_outputs():
        raise ConfigError(f"MODEL.PANOPTIC_FUSION.OUTPUTS is {wanted}; it holds some of {sorted(known_outputs())}")
    if "things_masks" in wanted and cfg.MODEL.SEM_SEG_HEAD.ONTOLOGY == "stuff":
        raise ConfigError(
            "MODEL.PANOPTIC_FUSION.OUTPUTS has 'things_masks', but MODEL.SEM_SEG_HEAD.ONTOLOGY 'stuff' has no things"
        )


def known_outputs() -> set[str]:
    """Returns the names that MODEL.PANOPTIC_FUSION.OUTPUTS may list."""
    return {"sem_seg", "instances", "panoptic_seg", *(name for name, _ in OUTPUT_REGISTRY)}


def possible_outputs(architecture: type) -> set[str]:
    """Returns what a meta-architecture can output, of the names in MODEL.PANOPTIC_FUSION.OUTPUTS.

    Args:
        architecture: a class of META_ARCH_REGISTRY; its attribute `possible_outputs`, if it has one, limits the names.
    """
    return set(getattr(architecture, "possible_outputs", known_outputs()))


def value_of(cfg: CfgNode, key: str) -> Any:
    """The value of a key such as "MODEL.BACKBONE.NAME"."""
    return reduce(getattr, key.split("."), cfg)

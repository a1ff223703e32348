"""Input normalization from timm's metadata for configs with a timm model, and checks of their keys."""

from detectron2.config import CfgNode

from panoptic_fusion.errors import ConfigError

from .timm_backbone import timm_metadata

BUILDER = "build_timm_backbone"


def resolve_timm(cfg: CfgNode) -> None:
    """Checks MODEL.TIMM and fills empty INPUT.FORMAT, MODEL.PIXEL_MEAN and MODEL.PIXEL_STD in place, from timm.

    timm's metadata is read only if it is needed: the config of a trained model already has its normalization.

    Raises:
        ConfigError: if a key would be ignored or has an unsupported value, or if the normalization does not match the
            pretrained weights. The message names the key.
        UserError: if timm is needed and missing.
    """
    keys = cfg.MODEL.TIMM
    values = {"INPUT.FORMAT": cfg.INPUT.FORMAT, "MODEL.PIXEL_MEAN": cfg.MODEL.PIXEL_MEAN}
    values["MODEL.PIXEL_STD"] = cfg.MODEL.PIXEL_STD
    empty = [key for key, value in values.items() if not len(value)]
    if cfg.MODEL.BACKBONE.BOTTOM_UP != BUILDER:
        if keys.NAME or keys.WEIGHTS or keys.PRETRAINED:
            raise ConfigError(f"MODEL.TIMM is set, but MODEL.BACKBONE.BOTTOM_UP is not {BUILDER}: it would be ignored")
        if empty:
            raise ConfigError(f"{empty[0]} is empty, which only a network of timm can fill in")
        return
    if not keys.NAME:
        raise ConfigError("MODEL.TIMM.NAME is empty: name a model of timm, such as convnext_tiny")
    if keys.PRETRAINED and keys.WEIGHTS:
        raise ConfigError(
            "MODEL.TIMM.PRETRAINED and MODEL.TIMM.WEIGHTS both name weights: set PRETRAINED to False or WEIGHTS to ''"
        )
    if not 0 <= keys.DROP_PATH < 1:
        raise ConfigError(f"MODEL.TIMM.DROP_PATH is {keys.DROP_PATH}: use a number in [0, 1)")
    must_match = (keys.PRETRAINED or keys.WEIGHTS) and not keys.ALLOW_NORMALIZATION_MISMATCH
    if not empty and not must_match:
        return
    expected = normalization_of(keys.NAME)
    if must_match:
        for key, value in values.items():
            if key not in empty and not _same(value, expected[key]):
                raise ConfigError(
                    f"{key} is {value}, but {keys.NAME} was trained with {expected[key]}: leave it empty "
                    f"({'[]' if isinstance(value, (list, tuple)) else repr('')}) to take that, or set "
                    "MODEL.TIMM.ALLOW_NORMALIZATION_MISMATCH True"
                )
    for key in empty:
        cfg.merge_from_list([key, expected[key]])


def normalization_of(name: str) -> dict[str, str | list[float]]:
    """Returns INPUT.FORMAT, MODEL.PIXEL_MEAN and MODEL.PIXEL_STD of a timm model: RGB, its mean and std times 255."""
    metadata = timm_metadata(name)
    scaled = {part: [round(255 * value, 4) for value in metadata[part]] for part in ("mean", "std")}
    return {"INPUT.FORMAT": "RGB", "MODEL.PIXEL_MEAN": scaled["mean"], "MODEL.PIXEL_STD": scaled["std"]}


# Unsets the initial weights of a training run, which a complete checkpoint replaces.
NO_PRETRAINING = {"MODEL.TIMM.PRETRAINED": False, "MODEL.TIMM.WEIGHTS": ""}


def clear_pretrained_weights(cfg: CfgNode) -> None:
    """Applies NO_PRETRAINING to the config in place."""
    cfg.merge_from_list([word for pair in NO_PRETRAINING.items() for word in pair])


def check_trainable(cfg: CfgNode) -> None:
    """Checks that frozen parts of a timm model do not have random weights.

    Args:
        cfg: resolved config of a training run that starts from iteration 0.

    Raises:
        ConfigError: if MODEL.TIMM.FROZEN_BN or FROZEN_STAGES is set without any weights.
    """
    keys = cfg.MODEL.TIMM
    if cfg.MODEL.BACKBONE.BOTTOM_UP != BUILDER or keys.PRETRAINED or keys.WEIGHTS or cfg.MODEL.WEIGHTS:
        return
    for key in ("FROZEN_BN", "FROZEN_STAGES"):
        if keys[key]:
            raise ConfigError(
                f"MODEL.TIMM.{key} is {keys[key]}, but {keys.NAME} starts from random weights: set it to "
                f"{type(keys[key])(0)}, or MODEL.TIMM.PRETRAINED or MODEL.TIMM.WEIGHTS"
            )


def _same(value: str | list[float], expected: str | list[float]) -> bool:
    if isinstance(expected, str) or isinstance(value, str):
        return value == expected
    return len(value) == len(expected) and all(abs(a - b) < 0.01 for a, b in zip(value, expected, strict=True))

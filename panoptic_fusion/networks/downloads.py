"""Restricts downloads of weights to those that the user has requested."""

from detectron2.config import CfgNode

from panoptic_fusion.config.check import get_config_value
from panoptic_fusion.errors import UserError

KEYS = ("MODEL.WEIGHTS", "MODEL.TIMM.WEIGHTS", "MODEL.INDEPENDENT.INSTANCES", "MODEL.INDEPENDENT.SEMANTIC")
MODEL_ZOO = "detectron2://"  # resolves only to files published by detectron2's authors


def check_downloads(cfg: CfgNode, *, allow_download: bool, from_folder: bool = False) -> None:
    """Refuses URLs of weights, except detectron2's model zoo in MODEL.WEIGHTS of a config that the user has named.

    Args:
        cfg: config, before anything is downloaded for it.
        allow_download: whether to accept all URLs.
        from_folder: whether the config comes from a model's folder. Such a folder may come from anywhere, so the model
            zoo is refused as well.

    Raises:
        UserError: if the value of a key is a URL. The message names the key and says what to do.
    """
    for key in KEYS:
        value = get_config_value(cfg, key)
        if allow_download or not isinstance(value, str) or "://" not in value:
            continue
        if key == "MODEL.WEIGHTS" and value.startswith(MODEL_ZOO) and not from_folder:
            continue
        raise UserError(
            f"{key} is {' '.join(value.split())[:200]}: add --allow-download if you trust this address, or download "
            "the file and pass its path"
        )

"""Which weights may be downloaded: those that a person has asked for."""

from detectron2.config import CfgNode

from panoptic_fusion.config.check import value_of
from panoptic_fusion.errors import UserError

KEYS = ("MODEL.WEIGHTS", "MODEL.TIMM.WEIGHTS", "MODEL.INDEPENDENT.INSTANCES", "MODEL.INDEPENDENT.SEMANTIC")
MODEL_ZOO = "detectron2://"  # which leads to the files of detectron2's authors only


def check_downloads(cfg: CfgNode, *, allow_download: bool, from_folder: bool = False) -> None:
    """Refuses URLs of weights, except detectron2's model zoo in MODEL.WEIGHTS of a config that a person has named.

    Args:
        cfg: a config, before anything is downloaded for it.
        allow_download: accept all.
        from_folder: the config lies in a model's folder, which may come from anywhere: the zoo is refused too.

    Raises:
        UserError: a key is a URL; the message names it and says what to do.
    """
    for key in KEYS:
        value = value_of(cfg, key)
        if allow_download or not isinstance(value, str) or "://" not in value:
            continue
        if key == "MODEL.WEIGHTS" and value.startswith(MODEL_ZOO) and not from_folder:
            continue
        raise UserError(
            f"{key} is {' '.join(value.split())[:200]}: add --allow-download if you trust this address, or download "
            "the file and give its path"
        )

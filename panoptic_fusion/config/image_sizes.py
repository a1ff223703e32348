"""Input sizes for a dataset of large images."""

import math
from typing import Any

from detectron2.config import CfgNode

# Options that set a size. If one of them is given, sizes are not scaled.
SIZE_KEYS = ("INPUT.MIN_SIZE_TRAIN", "INPUT.MAX_SIZE_TRAIN", "INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST",
             "INPUT.CROP.SIZE", "INPUT.CROP.ENABLED", "INPUT.CROP.TYPE")  # fmt: skip


def scaled_sizes(cfg: CfgNode, width: float, height: float) -> dict[str, Any]:
    """Returns the sizes below INPUT for large images: all sizes of the config times one factor.

    With this factor, the median image keeps its own size, or has INPUT.PIXEL_BUDGET pixels if it is larger than that.
    The factor is never below 1, so smaller images keep the size of the config.

    Args:
        cfg: detectron2 config.
        width, height: size of the median image, in pixels.

    Returns:
        {KEY: value}. Empty if nothing changes: INPUT.PIXEL_BUDGET is 0, INPUT.MIN_SIZE_TEST is 0, or the factor is 1.
    """
    data = cfg.INPUT
    if not data.PIXEL_BUDGET or not data.MIN_SIZE_TEST:
        return {}
    now = min(data.MIN_SIZE_TEST / min(width, height), data.MAX_SIZE_TEST / max(width, height))
    factor = min(1.0, math.sqrt(data.PIXEL_BUDGET / (width * height))) / now
    if factor <= 1:
        return {}

    def scaled(size: int) -> int:
        return int(size * factor + 1e-6)

    sizes = {
        "INPUT.MIN_SIZE_TRAIN": tuple(scaled(size) for size in data.MIN_SIZE_TRAIN),
        "INPUT.MAX_SIZE_TRAIN": scaled(data.MAX_SIZE_TRAIN),
        "INPUT.MIN_SIZE_TEST": scaled(data.MIN_SIZE_TEST),
        "INPUT.MAX_SIZE_TEST": scaled(data.MAX_SIZE_TEST),
    }
    if data.CROP.ENABLED and data.CROP.TYPE.startswith("absolute"):
        sizes["INPUT.CROP.SIZE"] = [scaled(size) for size in data.CROP.SIZE]
    return sizes

"""Reads pixel statistics and anchors from the config text inside a published Seamless checkpoint.

The text is in INI format. The checkpoint's tensors fit any values, so values in the text take precedence.
"""

import math
import re

from panoptic_fusion.errors import UserError

NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]?(?:nan|inf)", re.IGNORECASE)


def pixel_statistics(settings: str, key: str, default: tuple[float, ...]) -> list[float]:
    """Returns the mean or standard deviation of the three color channels, in the range 0 to 255.

    Args:
        settings: config text.
        key: "mean" or "std". Values up to 1 are read as fractions of 255.
        default: values to return if the text does not have the key.

    Raises:
        UserError: the values are not three finite numbers (for "std": above 0).
    """
    found = numbers_of(settings, key)
    if found is None:
        return list(default)
    if len(found) != 3 or not all(math.isfinite(v) and (v > 0 or key == "mean") for v in found):
        raise UserError(
            f"the checkpoint's own config has a {key} of {found}; it must be three numbers, one per channel"
        )
    return [round(v * 255, 4) for v in found] if max(map(abs, found)) <= 1 else found


def anchors(settings: str, ratios: list[float], scale: float) -> tuple[list[float], float]:
    """Returns the ratios and the scale (size / stride) of the anchors from the text, or as given.

    Raises:
        UserError: the number of ratios in the text differs from `ratios`, or a value is not finite and above 0.
    """
    own_ratios, own_scale = numbers_of(settings, "anchor_ratios"), numbers_of(settings, "anchor_scale")
    own_ratios, own_scale = own_ratios or ratios, own_scale or [float(scale)]
    if not all(math.isfinite(v) and v > 0 for v in (*own_ratios, *own_scale)) or len(own_scale) != 1:
        raise UserError(f"the checkpoint's own config has anchors of scale {own_scale} and ratios {own_ratios}")
    if len(own_ratios) != len(ratios):
        text = f"the checkpoint's own config has {len(own_ratios)} anchor_ratios, its RPN head {len(ratios)} anchors"
        raise UserError(f"{text} at a position")
    return own_ratios, int(own_scale[0]) if own_scale[0].is_integer() else own_scale[0]


def numbers_of(settings: str, key: str) -> list[float] | None:
    """Returns the numbers in the last line that sets `key`, also with prefix rgb_, pixel_ or image_, or None."""
    lines = re.findall(rf"^\s*(?:rgb_|pixel_|image_)?{key}\s*[=:]([^#;\n]*)", settings, re.MULTILINE)
    return [float(x) for x in NUMBER.findall(lines[-1])] if lines else None

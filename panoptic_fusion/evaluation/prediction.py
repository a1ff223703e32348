"""Reads the panoptic prediction from a model's output and checks it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..data.label_space import LabelSpace


def panoptic_prediction(
    output: Mapping[str, Any], label_space: LabelSpace, name: str
) -> tuple[np.ndarray, Sequence[Mapping[str, Any]]]:
    """Returns the panoptic map (H, W) of an output as an array, and its segments_info.

    Args:
        output: output of a model for one image, with panoptic_seg = (map, segments_info).
        label_space: classes that `category_id` may refer to, as contiguous thing or stuff ids.
        name: name of the image for error messages.

    Raises:
        ValueError: panoptic_seg is missing, or a segment lacks id, isthing or category_id, repeats an id, or has a
            class that does not exist; the message names the image.
    """
    if output.get("panoptic_seg") is None:
        raise ValueError(f"{name}: no panoptic_seg in the output; MODEL.PANOPTIC_FUSION.OUTPUTS must list it")
    panoptic_map, segments_info = output["panoptic_seg"]
    if segments_info is None:
        raise ValueError(f"{name}: panoptic_seg has no segments_info")
    seen = set()
    for segment in segments_info:
        _check_segment(segment, label_space, name)
        if segment["id"] in seen:
            raise ValueError(f"{name}: segments_info has a segment id twice ({segment['id']})")
        seen.add(segment["id"])
    if isinstance(panoptic_map, torch.Tensor):
        panoptic_map = panoptic_map.cpu().numpy()
    return panoptic_map, segments_info


def _check_segment(segment: Mapping[str, Any], label_space: LabelSpace, name: str) -> None:
    for key in ("id", "isthing", "category_id"):
        if segment.get(key) is None:
            advice = ""
            if key == "isthing":
                advice = (
                    ". detectron2's COCOPanopticEvaluator removes it from the outputs it is given: wrap that evaluator "
                    "in panoptic_fusion.evaluation.CopiedOutputs"
                )
            raise ValueError(f"{name}: a segment of segments_info has no {key}: {dict(segment)}{advice}")
    kind, num = ("thing", label_space.num_things) if segment["isthing"] else ("stuff", label_space.num_stuff)
    try:
        known = 0 <= int(segment["category_id"]) < num
    except (TypeError, ValueError):
        known = False
    if not known:
        text = f"segment {segment['id']} is of {kind} class {segment['category_id']!r}; there are {num}"
        raise ValueError(f"{name}: {text}")

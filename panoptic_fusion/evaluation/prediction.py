"""Reads the panoptic prediction from a model's output and checks it."""

import operator
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..data.label_space import LabelSpace
from .matching import MAX_SEGMENT_ID
from .records import output_of


def panoptic_prediction(
    output: Mapping[str, Any], label_space: LabelSpace, name: str
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Returns the panoptic map (H, W) of an output as an array of integers, and copies of its segments_info.

    The copies have Python numbers as id, isthing and category_id.

    Args:
        output: output of a model for one image, with panoptic_seg = (map, segments_info).
        label_space: classes that `category_id` may refer to, as contiguous thing or stuff ids.
        name: name of the image for error messages.

    Raises:
        ValueError: panoptic_seg is missing or not such a pair, the map is not (H, W) integers in [0, 2^24), or a
            segment lacks id, isthing or category_id, repeats an id, or has a class that does not exist; the message
            names the image.
    """
    panoptic_seg = output_of(output, "panoptic_seg", name)
    if not isinstance(panoptic_seg, tuple | list) or len(panoptic_seg) != 2:
        raise ValueError(f"{name}: panoptic_seg must be a pair (map, segments_info)")
    panoptic_map, segments_info = panoptic_seg
    if not isinstance(segments_info, tuple | list):
        raise ValueError(f"{name}: panoptic_seg has no segments_info, a list with one dict per segment")
    segments, seen = [], set()
    for segment in segments_info:
        segments.append(_checked_segment(segment, label_space, name))
        segment_id = segments[-1]["id"]
        if segment_id in seen:
            raise ValueError(f"{name}: segments_info has a segment id twice ({segment_id})")
        seen.add(segment_id)
    return _checked_map(panoptic_map, name), segments


def _checked_map(panoptic_map: Any, name: str) -> np.ndarray:
    if isinstance(panoptic_map, torch.Tensor):
        panoptic_map = panoptic_map.cpu().numpy()
    if not isinstance(panoptic_map, np.ndarray) or panoptic_map.ndim != 2:
        found = f"of shape {panoptic_map.shape}" if isinstance(panoptic_map, np.ndarray) else repr(type(panoptic_map))
        raise ValueError(f"{name}: the map in panoptic_seg must be a tensor or an array (H, W), but is {found}")
    if not np.issubdtype(panoptic_map.dtype, np.integer):
        raise ValueError(f"{name}: the map in panoptic_seg must be of an integer type, but is {panoptic_map.dtype}")
    for extreme in (int(panoptic_map.min(initial=0)), int(panoptic_map.max(initial=0))):
        if not 0 <= extreme <= MAX_SEGMENT_ID:
            raise ValueError(f"{name}: the map in panoptic_seg has the segment id {extreme}, outside [0, 2^24)")
    return panoptic_map


def _checked_segment(segment: Any, label_space: LabelSpace, name: str) -> dict[str, Any]:
    if not isinstance(segment, Mapping):
        raise ValueError(f"{name}: segments_info must have one dict per segment, not {segment!r}")
    for key in ("id", "isthing", "category_id"):
        if segment.get(key) is None:
            advice = ""
            if key == "isthing":
                advice = (
                    ". detectron2's COCOPanopticEvaluator removes it from the outputs it is given: wrap that evaluator "
                    "in panoptic_fusion.evaluation.CopiedOutputs"
                )
            raise ValueError(f"{name}: a segment of segments_info has no {key}: {dict(segment)}{advice}")
    segment_id, isthing, category_id = (_integer(segment[key]) for key in ("id", "isthing", "category_id"))
    if segment_id is None or not 0 < segment_id <= MAX_SEGMENT_ID:
        raise ValueError(f"{name}: the segment id {segment['id']!r} is not an integer in [1, 2^24)")
    if isthing not in (0, 1):
        raise ValueError(f"{name}: segment {segment_id} has {segment['isthing']!r} as isthing, not True or False")
    kind, num = ("thing", label_space.num_things) if isthing else ("stuff", label_space.num_stuff)
    if category_id is None or not 0 <= category_id < num:
        text = f"segment {segment_id} is of {kind} class {segment['category_id']!r}; there are {num}"
        raise ValueError(f"{name}: {text}")
    return {**segment, "id": segment_id, "isthing": bool(isthing), "category_id": category_id}


def _integer(value: Any) -> int | None:
    """Returns an integer or a truth value of Python, numpy or torch as an int; None for anything else."""
    try:
        return int(value) if isinstance(value, np.bool_) else operator.index(value)
    except TypeError:  # also raised for tensors that do not hold one integer
        return None

"""Pairs the inputs and outputs of a model with the dataset dicts of an evaluator."""

import logging
from collections.abc import Hashable, Mapping
from typing import Any

from ..errors import UserError

logger = logging.getLogger(__name__)


def record_of(image: Mapping[str, Any], records: Mapping[Any, dict[str, Any]], dataset_name: str) -> dict[str, Any]:
    """Returns the dataset dict of an input dict.

    Args:
        image: input dict with an image_id.
        records: {image id: dataset dict}.
        dataset_name: name of the dataset, for the message.

    Raises:
        UserError: the image has no image_id, or is not in the dataset.
    """
    if "image_id" not in image:
        raise UserError(f"an input dict has no image_id (its keys: {', '.join(map(str, image))})")
    image_id = image["image_id"]
    record = records.get(image_id) if isinstance(image_id, Hashable) else None
    if record is None:
        raise UserError(f"image id {image_id!r} is not in dataset {dataset_name!r}")
    return record


def output_of(output: Mapping[str, Any], key: str, name: str) -> Any:
    """Returns a part of a model's output.

    Args:
        output: output of a model for one image.
        key: name of the part, such as "panoptic_seg".
        name: name of the image, for the message.

    Raises:
        ValueError: the output lacks the part; the message names the image.
    """
    if output.get(key) is None:
        raise ValueError(f"{name}: no {key} in the output; MODEL.PANOPTIC_FUSION.OUTPUTS must list it")
    return output[key]


def warn_of_missing(seen: int, total: int, dataset_name: str) -> None:
    """Logs a warning if fewer images were evaluated than the dataset has."""
    if seen < total:
        logger.warning("%d of the %d images of %s were evaluated", seen, total, dataset_name)

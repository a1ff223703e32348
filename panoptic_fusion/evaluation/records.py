"""Finds the dataset dict of a predicted image."""

from collections.abc import Mapping
from typing import Any

from ..errors import UserError


def record_of(image: Mapping[str, Any], records: Mapping[Any, dict[str, Any]], dataset_name: str) -> dict[str, Any]:
    """Returns the dataset dict of an input dict.

    Args:
        image: input dict with an image_id.
        records: {image id: dataset dict}.
        dataset_name: name of the dataset, for the message.

    Raises:
        UserError: the image is not in the dataset.
    """
    record = records.get(image["image_id"])
    if record is None:
        raise UserError(f"image id {image['image_id']!r} is not in dataset {dataset_name!r}")
    return record

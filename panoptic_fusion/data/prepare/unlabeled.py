"""Prepares test splits without public annotations: a panoptic JSON whose images are entirely void.

Evaluation on such a split writes the predictions for a test server; its metrics are NaN.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UserError, one_line
from ..coco_panoptic import PanopticFiles
from ..image_header import open_image
from .runner import Converted, Source, SplitPlan

SUFFIXES = {".jpg", ".jpeg", ".png"}


def plan_images(files: PanopticFiles, categories: Sequence[dict[str, Any]], paths: Iterable[Path]) -> SplitPlan:
    """Plans a split of the images in a folder; ids are the paths below `files.images` without suffix, "/" as "_".

    Args:
        files: paths that the split is registered with.
        categories: categories of the dataset.
        paths: paths of the images; other files are ignored.
    """
    folder = Path(files.images)
    sources = []
    for path in sorted(path for path in paths if path.suffix.lower() in SUFFIXES):
        name = path.relative_to(folder)
        image_id = "_".join(name.with_suffix("").parts).removesuffix("_leftImg8bit")
        sources.append(Source(image_id, name.as_posix(), str(path), f"{image_id}.png"))
    return SplitPlan(Path(files.panoptic_json), Path(files.panoptic_root), list(categories), sources, void)


def plan_listed_images(files: PanopticFiles, categories: Sequence[dict[str, Any]], image_info: Path) -> SplitPlan:
    """Plans a split of the images in a COCO `image_info` JSON, with the ids in it.

    Raises:
        UserError: if the file is not an `image_info` JSON.
    """
    try:
        images = [(entry["id"], str(entry["file_name"])) for entry in json.loads(image_info.read_bytes())["images"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{image_info} is not a COCO image_info JSON: download it again") from error
    sources = [
        Source(image_id, name, str(Path(files.images, name)), f"{Path(name).stem}.png") for image_id, name in images
    ]
    return SplitPlan(Path(files.panoptic_json), Path(files.panoptic_root), list(categories), sources, void)


def void(source: Source) -> Converted:
    """Returns a void panoptic map with the size of an image; reads only the header of the image.

    Raises:
        ValueError: if the file is not an image, or the image is too large.
        FileNotFoundError: if the file is missing.
    """
    try:
        with open_image(source.path) as image:
            width, height = image.size
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever Pillow raises for a file that is not an image
        raise ValueError(f"{source.path} is not a readable image ({one_line(error)})") from error
    return Converted(np.zeros((height, width, 3), np.uint8), [])

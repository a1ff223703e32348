"""Writes the overview of a checked dataset: statistics, and figures of the images that show most of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data.catalog import Metadata

from panoptic_fusion.data.annotation import read_id_map
from panoptic_fusion.data.checks import CheckResult
from panoptic_fusion.data.coco_panoptic import PanopticFiles, load_panoptic
from panoptic_fusion.data.mapper import read_image
from panoptic_fusion.data.statistics import choose_images, dataset_statistics, format_statistics
from panoptic_fusion.files import safe_name, unused_name, write_image, write_json, write_text
from panoptic_fusion.markdown import escape_markdown

from .draw import draw_comparison, reduce_to

MAX_SIDE = 800  # maximum side of an image in a figure, in pixels; larger images are reduced
MIN_HEIGHT = 300  # height in pixels that small images are enlarged to, by an integer factor


def write_overview(name: str, files: PanopticFiles, result: CheckResult, folder: Path, limit: int = 24) -> Path | None:
    """Writes `overview.md`, `statistics.json` and `pictures/*.jpg` (image and ground truth side by side).

    Args:
        name: name of the dataset, for the headline.
        files: locations of the dataset's files.
        result: result of `check_dataset`; images that cannot be drawn because of its problems are left out.
        folder: folder for the files; it is created if it does not exist.
        limit: maximum number of figures.

    Returns:
        The path of overview.md, or None if the dataset has no label space or no readable image.
    """
    if result.label_space is None or not any(image.annotated for image in result.images):
        return None
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    statistics = dataset_statistics(result)
    metadata = result.label_space.apply_to_metadata(Metadata())
    records = {record["image_id"]: record for record in load_panoptic(files, lambda fault: None)[1]}
    lines, used = [format_statistics(name, statistics), "## Images", ""], set()
    for image, reasons in choose_images(result, limit):
        picture = _picture(records[image.image_id], metadata)
        if picture is None:
            continue
        path = f"pictures/{unused_name(safe_name(Path(image.file_name).stem), used)}.jpg"
        write_image(folder / path, picture, jpeg_quality=88)
        size = f"{image.width}×{image.height}"
        text = f"**{escape_markdown(Path(image.file_name).name)}** ({size}): {escape_markdown('; '.join(reasons))}"
        lines += [text, "", f"![](<{path}>)", ""]
    write_json(folder / "statistics.json", statistics, indent=1)
    write_text(folder / "overview.md", "\n".join(lines))
    return folder / "overview.md"


def _picture(record: Mapping[str, Any], metadata: Metadata) -> np.ndarray | None:
    """Draws image and ground truth side by side, (h, w, 3) uint8 RGB.

    Returns None if either cannot be read or their sizes do not match.
    """
    image = read_image(record, "RGB", lambda fault: None)
    ids = read_id_map(record["pan_seg_file_name"], lambda fault: None)
    if image is None or ids is None or ids.shape != image.shape[:2]:
        return None
    image, ids = reduce_to(image, ids, (MAX_SIDE, MAX_SIDE))
    scale = max(1, min(-(-MIN_HEIGHT // ids.shape[0]), MAX_SIDE // max(ids.shape)))
    return draw_comparison(image, None, (ids, record["segments_info"]), metadata, scale)

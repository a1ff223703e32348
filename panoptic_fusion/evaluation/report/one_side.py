"""Reports of one side alone: a checked dataset, and predictions without ground truth."""

import os
from pathlib import Path

from ...data.checks import CheckResult
from ...data.coco_panoptic import PanopticFiles
from ...data.statistics import choose_images, dataset_statistics
from ...errors import counted
from .write import write_report


def write_dataset_report(
    name: str,
    files: PanopticFiles,
    result: CheckResult,
    output: str | os.PathLike,
    processes: int | None = None,
    limit: int = 24,
) -> Path | None:
    """Writes the report of a checked dataset: its classes, and the images that show most of it.

    Args:
        name: name of the dataset, for the title.
        files: locations of the dataset's files.
        result: result of `check_dataset`, over whose images the segments and pixels of the classes are counted.
        output: folder of the page, which is created.
        processes: number of processes; None: one per CPU core.
        limit: maximum number of images.

    Returns:
        The path of report.html, or None if the dataset has no label space or no readable image.
    """
    if result.label_space is None or not (chosen := choose_images(result, limit)):
        return None
    totals = [
        (each["segments"], round(each["pixels"] * result.pixels), each["crowds"], each["images"])
        for each in dataset_statistics(result)["classes"]
    ]
    shown = f"{len(chosen)} of {counted(len(result.images), 'image')}"
    return write_report(
        files.panoptic_json, files.panoptic_root, {}, output,
        photos=files.images, images=[image.image_id for image, _ in chosen], title=f"{name} ({shown})",
        processes=processes, class_totals=totals, report=lambda error: None,
    )["page"]  # fmt: skip


def write_prediction_report(
    panoptic_json: str | os.PathLike, panoptic_root: str | os.PathLike, output: str | os.PathLike, name: str
) -> Path:
    """Writes the report of predictions whose ground truth is unknown.

    Args:
        panoptic_json, panoptic_root: predictions in COCO panoptic format, with `images` and `categories`. The
            `file_name` of an image is its path; frames of videos have no photo.
        output: folder of the page, which is created.
        name: name of the predictions, also the title.

    Returns:
        The path of report.html.

    Raises:
        DatasetError: the JSON cannot be used.
    """
    source = (panoptic_json, panoptic_root)
    return write_report(*source, {name: source}, output, photos=os.curdir, title=name, show="prediction")["page"]

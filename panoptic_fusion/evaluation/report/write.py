"""Writes a report: scores predictions in COCO panoptic format and draws where they differ from the ground truth."""

import json
import os
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ...data.dataset_errors import Report, raise_error
from ...data.image_header import MAX_PIXELS
from ...data.journal import append_record, read_records
from ...data.label_space import LabelSpace
from ...errors import UserError
from ...files import remove_partial_files, write_atomically
from ...locks import locked_folder
from ...processes import map_in_processes, with_progress
from ..files import ImageTask, check_folders, make_tasks
from ..panoptic_quality import check_pq_dagger
from .image import FOLDERS, ReportImage, Settings, fingerprint, is_written, write_image_data
from .index import collect_results, make_index
from .javascript import write_script
from .page import FILES, write_page

Files = tuple[str | os.PathLike, str | os.PathLike]  # a JSON and the folder of its PNGs
JOURNAL = "finished.jsonl"


def write_report(
    gt_json: str | os.PathLike,
    gt_root: str | os.PathLike,
    predictions: Mapping[str, Files],
    output: str | os.PathLike,
    *,
    photos: str | os.PathLike | None = None,
    images: Collection[Any] | None = None,
    processes: int | None = None,
    pq_dagger: str = "matched",
    boundary: bool = True,
    max_pixels: int = MAX_PIXELS,
    title: str = "Panoptic quality",
    show: str = "both",
    class_totals: Sequence[Sequence[int]] | None = None,
    report: Report = raise_error,
) -> dict[str, Any]:
    """Scores predictions as `evaluate_files` does, and writes `report.html` and its folder `report_files`.

    A killed report resumes: images whose files and settings did not change are kept. Images are treated as in
    `evaluate_files`; photos that cannot be read are named on the page.

    Args:
        gt_json, gt_root, images, processes, pq_dagger, boundary: see `evaluate_files`.
        predictions: JSON file and PNG folder of each prediction, by its name on the page. None of them: the page shows
            the ground truth alone.
        output: folder of the page, which is created.
        photos: folder of the images, by their `file_name` in the ground truth. None: the page has no photos.
        max_pixels: larger images and PNGs are invalid, see INPUT.MAX_PIXELS.
        title: title of the page.
        show: "both"; "truth" shows the ground truth alone; "prediction" shows the predictions alone, without numbers.
        class_totals: numbers of segments, pixels, crowds and images per class, if `images` are a part of the dataset.
        report: called with each error in the ground truth's JSON; by default, the first one is raised.

    Returns:
        {"page": path of report.html, "results": {name: results as from `evaluate_files`}, "problems": list of texts
        about photos}.

    Raises:
        DatasetError, UserError: see `evaluate_files`.
        DiskError: the disk is full.
    """
    check_folders(gt_root, *(root for _, root in predictions.values()))
    if photos is not None and not os.path.isdir(photos):
        raise UserError(f"{os.fspath(photos)} is not a folder: pass the folder of the images")
    check_pq_dagger(pq_dagger)
    space, tasks, problems = _paired_tasks(gt_json, gt_root, predictions, images, report)
    folder = Path(output, FILES)
    for name in FOLDERS:
        (folder / name).mkdir(parents=True, exist_ok=True)
    settings = Settings(os.fspath(folder), space, boundary, show if predictions else "truth", max_pixels)
    listed = []
    for number, each in enumerate(tasks, start=1):
        photo = None if photos is None else os.path.join(photos, each[0].file_name)
        if show == "prediction" and photo is not None and not os.path.isfile(photo):  # a frame of a video
            photo = None
        listed.append(ReportImage(f"{number:06d}", photo, each))
    with locked_folder(folder, f"the report {output}"):
        records = _write_images(listed, settings, processes)
        results = collect_results(records, settings, problems, pq_dagger) if predictions else []
        names = list(predictions)
        index = make_index(title, names, listed, records, results, settings, class_totals)
        write_script(folder / "index.js", "index", index)
        page = write_page(Path(output))
    lost = [f"{image.tasks[0].file_name}: {text}" for image, record in zip(listed, records, strict=True)
            for text in record["problems"]]  # fmt: skip
    return {"page": page, "results": dict(zip(names, results, strict=True)), "problems": lost}


def _paired_tasks(
    gt_json: str | os.PathLike,
    gt_root: str | os.PathLike,
    predictions: Mapping[str, Files],
    images: Collection[Any] | None,
    report: Report,
) -> tuple[LabelSpace, list[tuple[ImageTask, ...]], list[list[str]]]:
    """Returns the classes, the tasks of each image (one per prediction), and the problems of each prediction's JSON."""
    sources: Sequence[Files | tuple[None, None]] = list(predictions.values()) or [(None, None)]
    found = [make_tasks(gt_json, gt_root, *source, images, report) for source in sources]
    return found[0][0], list(zip(*(tasks for _, tasks, _ in found), strict=True)), [problems for *_, problems in found]


def _write_images(images: Sequence[ReportImage], settings: Settings, processes: int | None) -> list[dict[str, Any]]:
    """Writes the data of all images but those that a previous run finished; returns the records of all."""
    folder = Path(settings.folder)
    _remove_other_files(folder, {image.key for image in images})
    finished = _finished_before(folder, images, settings)
    left = [image for image in images if image.key not in finished]
    write = partial(write_image_data, settings=settings)
    for record in with_progress(map_in_processes(write, left, processes), len(left), "report"):
        finished[record["key"]] = record
        append_record(folder / JOURNAL, record)
    return [finished[image.key] for image in images]


def _remove_other_files(folder: Path, keys: set[str]) -> None:
    """Removes files of images that the report does not have, and what killed processes left."""
    for name in FOLDERS:
        remove_partial_files(folder / name)
        for file in (folder / name).iterdir():
            if file.stem.isdigit() and file.stem not in keys:
                file.unlink()


def _finished_before(folder: Path, images: Sequence[ReportImage], settings: Settings) -> dict[str, dict[str, Any]]:
    """Returns {key: record} of the images that are as a previous run has written them; forgets the others."""
    journal, by_key = folder / JOURNAL, {image.key: image for image in images}
    found: dict[str, dict[str, Any]] = {}
    for record in read_records(journal) if journal.is_file() else ():
        image = by_key.get(record["key"])
        if image is not None and record["fingerprint"] == fingerprint(image, settings) and is_written(record, folder):
            found[record["key"]] = record
    text = "".join(f"{json.dumps(record)}\n" for record in found.values())
    write_atomically(journal, lambda file: file.write(text.encode()))
    return found

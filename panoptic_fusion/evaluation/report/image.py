"""Scores one image of the report, writes its data and pictures, and returns its numbers."""

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...data.annotation import read_id_map
from ...data.dataset_errors import DatasetError
from ...data.label_space import LabelSpace
from ...files import file_state, write_image
from ..files import LEFT_OUT, ImageTask, row_of, score_image
from ..matching import ImageCounts
from ..scores import Scores
from .confusion import pixel_confusion, segment_confusion
from .errors import CODES, ImageErrors, classify_errors
from .javascript import write_script
from .payload import labels_of, prediction_payload, truth_payload, without_errors
from .pictures import MAX_SIDE, THUMB_QUALITY, THUMB_SIDE, write_pictures
from .worst import worst_of_image

VERSION = 1  # of the files; a change of the format makes an interrupted report start again
TRUTH = ("segments", "pixels", "crowds", "images")  # what is counted of each ground-truth class
VOID_COLOR = (255, 255, 255)  # in thumbnails of the ground truth
FOLDERS = ("images", "photos", "thumbs")


@dataclass(frozen=True)
class ReportImage:
    """One image of the report.

    Attributes:
        key: name of its files, such as "000001".
        photo: path to the image file, or None.
        tasks: its ground truth with each prediction; the ground truth alone is one task without a prediction.
    """

    key: str
    photo: str | None
    tasks: tuple[ImageTask, ...]


@dataclass(frozen=True)
class Settings:
    """What the data of an image depend on, apart from its files.

    Attributes:
        folder: folder `report_files`.
        label_space: classes.
        boundary: whether boundary PQ is computed.
        show: "both", or the only side that is shown: "truth" or "prediction".
        max_pixels: larger images and PNGs are invalid.
    """

    folder: str
    label_space: LabelSpace
    boundary: bool
    show: str
    max_pixels: int

    def empty_scores(self) -> Scores:
        """Returns sums over no image."""
        return Scores(self.label_space.num_things, self.label_space.num_stuff, boundary=self.boundary)


def fingerprint(image: ReportImage, settings: Settings) -> str:
    """Returns a hash of everything that an image's data depend on; files count by their size and time."""
    files = [image.photo, *(path for task in image.tasks for path in (task.gt_png, task.pred_png))]
    states = [None if path is None else [path, file_state(path)] for path in files]
    content = [VERSION, MAX_SIDE, asdict(image), states, {**asdict(settings), "folder": ""}]
    return hashlib.sha1(json.dumps(content, default=str).encode("utf-8", "surrogatepass")).hexdigest()


def write_image_data(image: ReportImage, settings: Settings) -> dict[str, Any]:
    """Writes images/KEY.js, photos/KEY.jpg and thumbs/KEY.jpg of one image.

    Returns:
        Its numbers, as JSON: "key"; "fingerprint"; "size": [height, width] or None; "photo" and "thumb": whether they
        exist; "problems": list of texts; "truth": `TRUTH` of all classes; "predictions": list of {"row": see
        `row_of`; "state", "pixels", "segments": state of its `Scores` and confusions, each as [places, values] of the
        flat array's values other than 0; "worst": see `worst_of_image`; "codes": pixels per error code; "fn", "fp":
        number of segments per kind}.

    Raises:
        DiskError: the disk is full. All other problems are in the result.
    """
    folder, num_classes = Path(settings.folder), settings.label_space.num_things + settings.label_space.num_stuff
    try:
        gt_map = read_id_map(image.tasks[0].gt_png, max_pixels=settings.max_pixels)
    except DatasetError:
        gt_map = None  # `score_image` says what is wrong
    payload: dict[str, Any] = {"size": None, "ground_truth": None, "predictions": []}
    record: dict[str, Any] = {"key": image.key, "size": None, "predictions": []}
    record["truth"] = np.zeros((len(TRUTH), num_classes), int).tolist()
    for task in image.tasks:
        scores = settings.empty_scores()
        scored = score_image(task, scores, gt_map, settings.max_pixels)
        numbers: dict[str, Any] = {"row": row_of(task, scores, scored), "state": _sparse(scores.state())}
        record["predictions"].append(numbers)
        if scored.counts is None:
            continue
        gt_labels = labels_of(scored.gt_map, [id for id, _, _ in task.gt_segments])
        if record["size"] is None:
            record |= {"size": list(scored.gt_map.shape), "truth": _truth(scored.counts, num_classes)}
            payload |= truth_payload(task, scored.counts, gt_labels)
        errors = classify_errors(scored.counts)
        shown = list(task.pred_segments) if len(errors.pred_kinds) else []  # none of a prediction that is unusable
        labels = labels_of(scored.pred_map, shown)
        numbers |= _numbers(scored.counts, errors, num_classes)
        numbers["worst"] = worst_of_image(errors, gt_labels, labels)
        seen = [task.pred_scores.get(id) for id in shown]
        payload["predictions"].append(prediction_payload(seen, errors, gt_labels, labels))
    if settings.show == "truth":
        payload["predictions"] = []
    if settings.show == "prediction":
        payload |= {"ground_truth": None, "predictions": [without_errors(p) for p in payload["predictions"]]}
    record |= _write_pictures(image, gt_map if record["size"] else None, settings)
    payload["photo"] = f"photos/{image.key}.jpg" if record["photo"] else None
    write_script(folder / "images" / f"{image.key}.js", image.key, payload)
    return record | {"fingerprint": fingerprint(image, settings)}


def dense(sparse: list[list], out: np.ndarray) -> None:
    """Adds [places, values], which may be empty, to a contiguous array of any shape."""
    places, values = sparse
    out.reshape(-1)[np.array(places, int)] += np.array(values, out.dtype)


def _sparse(array: np.ndarray) -> list[list]:
    places = np.flatnonzero(array)
    return [places.tolist(), array.reshape(-1)[places].tolist()]


def _truth(counts: ImageCounts, num_classes: int) -> list[list[int]]:
    """Returns `TRUTH` of each class: numbers of segments, pixels, crowds and images of the ground truth."""
    areas = counts.counts[1:].sum(axis=1)
    segments, pixels, crowds = (
        np.bincount(counts.gt_classes, weights, num_classes).astype(int).tolist()
        for weights in (None, areas, counts.crowd)
    )
    return [segments, pixels, crowds, [int(number > 0) for number in segments]]


def _numbers(counts: ImageCounts, errors: ImageErrors, num_classes: int) -> dict[str, Any]:
    matching = errors.matching
    codes = np.bincount(errors.pixel_codes.reshape(-1), counts.counts.reshape(-1), len(CODES))
    return {
        "pixels": _sparse(pixel_confusion(counts, num_classes)),
        "segments": _sparse(segment_confusion(errors, num_classes)),
        "codes": codes.astype(int).tolist(),
        "fn": Counter(errors.gt_kinds[matching.missed].tolist()),
        "fp": Counter(errors.pred_kinds[matching.spurious].tolist()),
    }


def _write_pictures(image: ReportImage, gt_map: np.ndarray | None, settings: Settings) -> dict[str, Any]:
    """Writes photo and thumbnail; without a photo, the thumbnail shows the classes of the ground truth, if it is valid.

    Returns:
        {"photo", "thumb": whether they exist, "problems": list of texts}.
    """
    photo, thumb = (Path(settings.folder, name, f"{image.key}.jpg") for name in ("photos", "thumbs"))
    problem = ""
    for file in (photo, thumb):
        file.unlink(missing_ok=True)
    if image.photo is not None:
        size = None if gt_map is None else gt_map.shape
        problem = write_pictures(image.photo, size, photo, thumb, settings.max_pixels)
    if not thumb.exists() and gt_map is not None:
        segments, space = image.tasks[0].gt_segments, settings.label_space
        colors = [VOID_COLOR, *((space.thing_colors + space.stuff_colors)[cls] for _, cls, _ in segments)]
        labels = labels_of(gt_map, [id for id, _, _ in segments], THUMB_SIDE)
        write_image(thumb, np.array(colors, np.uint8)[labels], THUMB_QUALITY)
    return {"photo": photo.exists(), "thumb": thumb.exists(), "problems": [problem] if problem else []}


def is_written(record: dict[str, Any], folder: Path) -> bool:
    """Returns whether the files of a record exist."""
    key = record["key"]
    files = [folder / "images" / f"{key}.js"]
    files += [folder / f"{what}s" / f"{key}.jpg" for what in ("photo", "thumb") if record[what]]
    return all(file.is_file() for file in files)


def problems_of(record: dict[str, Any]) -> list[str]:
    """Returns the problems of an image's photo and ground truth; those of predictions are in their results."""
    left_out = [p["row"]["problem"] for p in record["predictions"] if p["row"]["status"] == LEFT_OUT]
    return [*left_out[:1], *record["problems"]]

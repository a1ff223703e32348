"""Scores the predictions of any model, given as COCO panoptic files, against ground truth in the same format."""

import os
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..data.annotation import read_id_map
from ..data.coco_json import is_number, read_images_json, read_panoptic_json, read_predictions_json
from ..data.dataset_errors import DatasetError, Report, raise_error
from ..data.image_header import MAX_PIXELS
from ..data.label_space import LabelSpace
from ..errors import UserError
from ..processes import map_in_processes, with_progress
from .matching import ImageCounts, count_image
from .panoptic_quality import check_pq_dagger
from .scores import Scores, image_row, summarize, write_scores

PER_CHUNK = 8  # images that a process scores at a time
SCORED, MISSING, INVALID, LEFT_OUT = STATUSES = ("scored", "no prediction", "invalid prediction", "left out")


@dataclass(frozen=True)
class ImageTask:
    """One image to score.

    Attributes:
        image_id, file_name: id and file name of the image, for reports.
        gt_png, pred_png: paths of the PNGs; `pred_png` is None if there is no prediction.
        gt_segments: list of (segment id, class index, is crowd).
        pred_segments: mapping from segment id to class index.
        pred_scores: mapping from segment id to score, for the predicted segments that have one.
    """

    image_id: Any
    file_name: str
    gt_png: str
    gt_segments: list[tuple[int, int, bool]]
    pred_png: str | None
    pred_segments: dict[int, int]
    pred_scores: dict[int, float]


@dataclass(frozen=True)
class ScoredImage:
    """One image after scoring.

    Attributes:
        status: one of `STATUSES`.
        problem: description of what is wrong, "" if nothing is.
        gt_map, pred_map: (H, W) int32 segment ids, 0 = void; an unusable prediction is empty. None if left out.
        counts: counts from which the metrics are computed, or None if left out.
    """

    status: str
    problem: str
    gt_map: np.ndarray | None = None
    pred_map: np.ndarray | None = None
    counts: ImageCounts | None = None


def evaluate_files(
    gt_json: str | os.PathLike,
    gt_root: str | os.PathLike,
    pred_json: str | os.PathLike,
    pred_root: str | os.PathLike,
    *,
    images: Collection[Any] | None = None,
    output: str | os.PathLike | None = None,
    processes: int | None = None,
    pq_dagger: str = "matched",
    boundary: bool = True,
) -> dict[str, Any]:
    """Scores predictions in COCO panoptic format against ground truth in the same format.

    An image without a usable prediction counts as empty, so that PQ always covers the whole dataset. An image whose
    ground truth cannot be read is left out. The results count and name both kinds of images.

    Args:
        gt_json, gt_root: JSON file and PNG folder of the ground truth.
        pred_json, pred_root: JSON file and PNG folder of the predictions. `annotations` is read: image_id, file_name
            of the PNG and segments_info with `id` and `category_id`, in the category ids of the ground truth. If the
            ground truth has none of the image ids, images are paired by file name, which `images` lists.
        images: ids or file names of the images to score. None scores all images.
        output: folder for results.json, results.md and images.csv. None writes nothing.
        processes: number of processes. None uses one per CPU core.
        pq_dagger: see `PanopticQuality.compute`.
        boundary: whether to also compute boundary PQ; without it, the results lack its keys.

    Returns:
        {"all", "things", "stuff": metrics x 100 (PQ, SQ, RQ, PQ_dagger, mIoU, boundary_PQ, boundary_SQ, boundary_RQ)
        and numbers of segments (TP, FP, FN); "by_size": {"small", "medium", "large": {group: PQ, SQ, RQ, TP, FP, FN}};
        "per_class": {name: the same, with IoU for mIoU}; "images": number of images that count; "status": {status:
        number of images}, with the statuses in `STATUSES`; "per_image": list of {image_id, file_name, PQ, SQ, RQ,
        PQ_dagger, mIoU, boundary_PQ, TP, FP, FN, status, problem}; "problems": list of texts}. Metrics are NaN if no
        class counts.

    Raises:
        DatasetError: a JSON cannot be used at all.
        UserError: a folder does not exist, `images` is empty, a text, or names an image that the ground truth does not
            have, `pq_dagger` is unknown, or a process was killed.
    """
    check_folders(gt_root, pred_root)
    check_pq_dagger(pq_dagger)
    label_space, tasks, problems = make_tasks(gt_json, gt_root, pred_json, pred_root, images)
    chunks = [tasks[i : i + PER_CHUNK] for i in range(0, len(tasks), PER_CHUNK)]
    empty = partial(Scores, label_space.num_things, label_space.num_stuff, boundary=boundary)
    score = partial(score_chunk, empty_scores=empty)
    total, rows = empty(), []
    results = with_progress(map_in_processes(score, chunks, processes), len(chunks), "scoring", PER_CHUNK)
    for state, chunk_rows in results:
        total.merge(state)
        rows += chunk_rows
    result = results_of(total, rows, problems, label_space, pq_dagger)
    if output is not None:
        write_scores(result, output)
    return result


def check_folders(*folders: str | os.PathLike) -> None:
    """Raises UserError for a folder of PNGs that does not exist."""
    for folder in folders:
        if not os.path.isdir(folder):
            raise UserError(f"{os.fspath(folder)} is not a folder: pass the folder of the PNGs")


def results_of(
    total: Scores, rows: list[dict[str, Any]], problems: list[str], label_space: LabelSpace, pq_dagger: str
) -> dict[str, Any]:
    """Returns what `evaluate_files` returns.

    Args:
        total: sums over all images.
        rows: one `row_of` per image.
        problems: problems of the JSON files; the images' own come from their rows.
        label_space, pq_dagger: classes, and divisor of PQ-dagger.
    """
    problems = problems + [f"{row['file_name']}: {row['problem']}" for row in rows if row["problem"]]
    result = summarize(total, label_space.thing_classes + label_space.stuff_classes, pq_dagger)
    status = Counter(row["status"] for row in rows)
    return result | {"status": {each: status[each] for each in STATUSES}, "per_image": rows, "problems": problems}


def make_tasks(
    gt_json: str | os.PathLike,
    gt_root: str | os.PathLike,
    pred_json: str | os.PathLike | None,
    pred_root: str | os.PathLike | None,
    images: Collection[Any] | None,
    report: Report = raise_error,
) -> tuple[LabelSpace, list[ImageTask], list[str]]:
    """Reads both JSON files and pairs their images; see `evaluate_files` for arguments and errors.

    Without `pred_json`, no image has a prediction. `report` is called with each error in the ground truth's JSON; by
    default, the first one is raised.

    Returns:
        The classes, one task per image of the ground truth, and the problems found in the predictions' JSON.
    """
    problems: list[str] = []
    truth = read_panoptic_json(os.fspath(gt_json), report)
    space = truth.label_space
    index = {id: i for i, id in enumerate([*space.thing_ids, *space.stuff_ids])}
    predicted = {}
    if pred_json is not None:
        predicted = read_predictions_json(os.fspath(pred_json), set(index), lambda error: problems.append(str(error)))
    if predicted and not any(id in truth.images for id in predicted):
        new = paired_by_file_name(read_images_json(os.fspath(pred_json), lambda error: None), truth.images)
        predicted = {new.get(id, id): prediction for id, prediction in predicted.items()}
    unknown = [id for id in predicted if id not in truth.images]
    if unknown:
        problems.append(
            f"{pred_json}: {len(unknown)} predictions are for images that the ground truth does not list, the first "
            f"for image_id {unknown[0]!r}"
        )
    if isinstance(images, str):
        raise UserError(f"images is the text {images!r}: pass a list of ids or file names")
    wanted = None if images is None else set(map(str, images))
    if wanted is not None and not wanted:
        raise UserError("the list of images is empty: pass ids or file names of images in the ground truth")
    tasks = []
    for image_id, image in truth.images.items():
        names = {str(image_id), image["file_name"]}
        if wanted is not None and not names & wanted:
            continue
        wanted = None if wanted is None else wanted - names
        annotation, prediction = truth.annotations.get(image_id), predicted.get(image_id)
        found = [] if prediction is None else prediction["segments_info"]
        if annotation is None:
            problems.append(f"{gt_json}: image {image['file_name']} has no annotation; it is left out")
            continue
        tasks.append(
            ImageTask(
                image_id,
                image["file_name"],
                os.path.join(gt_root, annotation["file_name"]),
                [
                    (s["id"], index[s["category_id"]], s.get("iscrowd", 0) == 1)
                    for s in annotation["segments_info"]
                    if s["category_id"] in index
                ],
                None if prediction is None else os.path.join(pred_root, prediction["file_name"]),
                {s["id"]: index[s["category_id"]] for s in found},
                {s["id"]: s["score"] for s in found if is_number(s.get("score"))},
            )
        )
    if wanted:
        raise UserError(f"{gt_json} has no image {sorted(wanted)[0]!r}: pass ids or file names of its images")
    return space, tasks, problems


def paired_by_file_name(
    theirs: Mapping[Any, Mapping[str, Any]], ours: Mapping[Any, Mapping[str, Any]]
) -> dict[Any, Any]:
    """Returns {their id: our id} of the images whose file name, without folders, is unique in both files.

    Args:
        theirs, ours: {image id: its entry, with `file_name`}.
    """

    def ids_by_name(entries: Mapping[Any, Mapping[str, Any]]) -> dict[str, Any]:
        names = {id: os.path.basename(entry["file_name"]) for id, entry in entries.items()}
        number = Counter(names.values())
        return {name: id for id, name in names.items() if number[name] == 1}

    named, known = ids_by_name(theirs), ids_by_name(ours)
    return {named[name]: known[name] for name in named.keys() & known.keys()}


def score_chunk(
    tasks: Sequence[ImageTask], *, empty_scores: Callable[[], Scores]
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Scores a chunk of images; returns the sums of `Scores` and one row per image."""
    total, rows = empty_scores(), []
    scored = None
    for task in tasks:
        scores = empty_scores()
        scored = score_image(task, scores, discarded=scored)
        total.merge(scores.state())
        rows.append(row_of(task, scores, scored))
    return total.state(), rows


def row_of(task: ImageTask, scores: Scores, scored: ScoredImage) -> dict[str, Any]:
    """Returns the row of one image, whose metrics are in `scores`, as in `evaluate_files`."""
    names = {"image_id": task.image_id, "file_name": task.file_name}
    return {**names, **image_row(scores), "status": scored.status, "problem": scored.problem}


def score_image(
    task: ImageTask,
    scores: Scores,
    gt_map: np.ndarray | None = None,
    max_pixels: int = MAX_PIXELS,
    discarded: ScoredImage | None = None,
) -> ScoredImage:
    """Scores one image and adds it to `scores`.

    Args:
        task: the image.
        scores: sums over images.
        gt_map: content of its `gt_png`, if the caller has read it.
        max_pixels: larger PNGs are invalid.
        discarded: an image that is no longer needed, whose maps may be overwritten.
    """
    free_gt, free_pred = (None, None) if discarded is None else (discarded.gt_map, discarded.pred_map)
    count = partial(count_image, num_classes=scores.quality["mask"].num_classes, boundary=scores.boundary)
    try:
        gt_map = read_id_map(task.gt_png, max_pixels=max_pixels, into=free_gt) if gt_map is None else gt_map
    except DatasetError as error:
        return ScoredImage(LEFT_OUT, f"left out, the ground truth is invalid: {error}")
    status, problem = MISSING, "no prediction"
    if task.pred_png is not None:
        try:
            pred_map = read_id_map(task.pred_png, max_pixels=max_pixels, into=free_pred)
            counts = count(pred_map, task.pred_segments, gt_map, task.gt_segments, name=task.pred_png)
            scores.add(counts)
            return ScoredImage(SCORED, "", gt_map, pred_map, counts)
        except (DatasetError, ValueError) as error:
            status, problem = INVALID, f"counted as empty: {error}"
    pred_map = np.zeros_like(gt_map)
    try:
        counts = count(pred_map, {}, gt_map, task.gt_segments, name=task.gt_png)
    except ValueError as error:
        return ScoredImage(LEFT_OUT, f"left out, the ground truth is invalid: {error}")
    scores.add(counts)
    return ScoredImage(status, problem, gt_map, pred_map, counts)

"""Tunes the fusion of the result files of any instance model and any semantic model."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from panoptic_fusion.data.coco_json import PanopticJson, read_panoptic_json
from panoptic_fusion.data.coco_panoptic import PanopticFiles, dataset_dicts
from panoptic_fusion.data.image_header import MAX_PIXELS
from panoptic_fusion.data.label_space import LabelSpace
from panoptic_fusion.errors import UserError
from panoptic_fusion.files import remove_partial_files
from panoptic_fusion.locks import locked_folder
from panoptic_fusion.networks.trained import evenly_spread
from panoptic_fusion.processes import map_in_processes, with_progress

from ..files import paired_by_file_name
from ..fuse_files import make_tasks, read_categories, read_images, state_of
from .decoded_files import FileTask, cache_image, score_decoded
from .file_rules import check_file_rules, rules_of_files
from .report import write_study
from .study import Study, check_enough, study_images

START_RULE = "heuristic"  # default of `panoptic-fusion fuse`


def tune_on_files(
    instances: str | os.PathLike,
    semantic: str | os.PathLike,
    gt_json: str | os.PathLike,
    gt_root: str | os.PathLike,
    output: str | os.PathLike,
    *,
    images: str | os.PathLike | None = None,
    categories: str | os.PathLike | None = None,
    names: Sequence[str] = (),
    num_folds: int = 5,
    num_images: int | None = None,
    processes: int | None = None,
) -> dict[str, Any]:
    """Tunes on files and writes the results; for arguments, result and errors see `panoptic_fusion.tune_files`."""
    check_file_rules(names)
    if not os.path.isdir(gt_root):
        raise UserError(f"{os.fspath(gt_root)} is not a folder: pass the folder of the ground truth's PNGs")
    truth = read_panoptic_json(os.fspath(gt_json))
    listed, space, problems = truth.images, truth.label_space, []
    if images is not None:
        listed, space, problems = read_images(images, categories)
    elif categories is not None:
        space = read_categories(categories)
    check_categories(space, truth.label_space, os.fspath(categories or images or gt_json), os.fspath(gt_json))
    records, lost = ground_truth_of(listed, truth, os.fspath(gt_json), os.fspath(gt_root))
    outputs, more = make_tasks(instances, semantic, listed)
    problems += lost + more
    content = [state_of(instances), state_of(semantic), space.to_categories(), [each.image for each in outputs]]
    folder = Path(output) / "decoded" / hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    tasks = [
        FileTask(each, records[each.image["id"]], str((folder / each.png_name).with_suffix(".npz")))
        for each in outputs
        if each.image["id"] in records
    ]
    tasks = tasks if num_images is None else evenly_spread(tasks, num_images)
    check_enough(tasks, num_folds, problems)
    inputs = {"instances": instances, "semantic": semantic, "images": images or gt_json, "categories": categories}
    paths = {name: os.fspath(path) for name, path in inputs.items() if path is not None}
    command = ["panoptic-fusion", "fuse"]
    for name, path in {**paths, "output": os.fspath(Path(output) / "fused")}.items():
        command += [f"--{name}", path]
    folder.mkdir(parents=True, exist_ok=True)
    with locked_folder(output, f"the folder {os.fspath(output)}"):
        remove_partial_files(folder)
        study = study_files(tasks, space, truth.label_space, names, num_folds, processes, problems)
        about = {**paths, "gt_json": os.fspath(gt_json), "gt_root": os.fspath(gt_root), "folds": num_folds}
        return write_study(study, output, command, about)


def study_files(
    tasks: Sequence[FileTask],
    space: LabelSpace,
    truth: LabelSpace,
    names: Sequence[str],
    num_folds: int,
    processes: int | None,
    problems: list[str],
    seed: int = 0,
) -> Study:
    """Decodes the predictions, searches, and scores the choices on held-out images.

    Args:
        tasks: images in the order of the dataset.
        space, truth: label spaces of the predictions and of the ground truth.
        names, num_folds, processes: see `tune_on_files`.
        problems: descriptions of what was left out before.
        seed: seed of the confidence intervals.

    Raises:
        UserError: there are fewer usable images than folds.
        DiskError: the disk is full. A later run resumes.
    """
    cache = partial(cache_image, space=space, max_pixels=MAX_PIXELS)
    cached = with_progress(map_in_processes(cache, tasks, processes), len(tasks), "reading the files")
    usable, images, problems = [], [], list(problems)
    for task, image in zip(tasks, cached, strict=True):
        problems += [*image.problems, *([image.failure] if image.failure else [])]
        if not image.failure:
            usable.append(replace(task, outputs=None))
            images.append(image)
    check_enough(usable, num_folds, problems)
    unfit = [image.unfit for image in images]
    if not any(image.has_things for image in images):
        unfit.append({"mask_guided": "no pixel of the semantic results is a thing"})
    has_logits = all(image.has_logits for image in images)
    rules, reasons = rules_of_files(unfit, has_logits=has_logits, names=(START_RULE, *names) if names else ())
    score = partial(score_decoded, rules=rules, space=space, truth=truth, max_pixels=MAX_PIXELS)
    return study_images(usable, score, rules, reasons, START_RULE, num_folds, processes, seed, problems)


def ground_truth_of(
    listed: Mapping[Any, Mapping[str, Any]], truth: PanopticJson, gt_json: str, gt_root: str
) -> tuple[dict[Any, dict[str, Any]], list[str]]:
    """Returns {id of a listed image: dataset dict of its ground truth}, and the problem of images without one.

    Args:
        listed: {image id: its entry}.
        truth: content of the JSON of the ground truth.
        gt_json, gt_root: paths of the JSON and of the folder of its PNGs.
    """
    records = {record["image_id"]: record for record in dataset_dicts(PanopticFiles("", gt_root, gt_json), truth, None)}
    is_known = any(id in truth.images for id in listed)
    ids = {id: id for id in listed} if is_known else paired_by_file_name(listed, truth.images)
    found = {id: records[ids[id]] for id in listed if ids.get(id) in records}
    absent = [entry["file_name"] for id, entry in listed.items() if id not in found]
    if not absent:
        return found, []
    return found, [f"{gt_json}: no ground truth for {len(absent)} of the images (the first: {absent[0]})"]


def check_categories(space: LabelSpace, truth: LabelSpace, path: str, gt_json: str) -> None:
    """Checks that the ground truth has all categories of the predictions, as things or stuff like them.

    Args:
        space, truth: label spaces of the predictions and of the ground truth.
        path, gt_json: their files.

    Raises:
        UserError: a category is missing or of the other kind.
    """
    known = truth.contiguous_ids()
    for id, (isthing, _) in space.contiguous_ids().items():
        kind = "thing" if isthing else "stuff"
        if id not in known or known[id][0] != isthing:
            text = f"category {id} is {kind}, but {gt_json} has no such {kind} category"
            raise UserError(f"{path}: {text}. Use the category ids of the ground truth.")

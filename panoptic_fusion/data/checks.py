"""Implements `panoptic-fusion check`: reads a dataset image by image and collects all errors."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pycocotools import mask as mask_api

from ..errors import UserError, counted, plain_line
from ..processes import WorkerKilledError, map_in_processes, with_progress
from .annotation import decode_segmentation, label_extents, load_annotation
from .coco_json import PanopticJson, read_instances_json, read_panoptic_json
from .coco_panoptic import PanopticFiles
from .dataset_errors import KINDS, WARNING_KINDS, DatasetError, Report
from .label_space import LabelSpace
from .mapper import read_image

BOX_TOLERANCE = 1  # pixels; tolerance for a bbox in a JSON: only some tools count the last row and column


@dataclass(frozen=True)
class ImageSummary:
    """Summary of one checked image.

    segments: (category id, iscrowd, area in pixels) of each segment that has at least one pixel.
    void_fraction: fraction of void pixels, 0 to 1.
    annotated: whether both the image and its PNG could be read.
    kinds: kinds of the problems of this image.
    """

    image_id: Any
    file_name: str
    width: int
    height: int
    segments: tuple[tuple[int, int, int], ...] = ()
    void_fraction: float = 0.0
    annotated: bool = False
    kinds: tuple[str, ...] = ()


@dataclass
class CheckResult:
    """Result of checking a dataset; the counts cover the images that could be read."""

    faults: list[DatasetError] = field(default_factory=list)
    label_space: LabelSpace | None = None
    num_images: int = 0
    segments: Counter = field(default_factory=Counter)  # keyed by category id of the JSON
    num_crowds: int = 0
    pixels: int = 0
    void_pixels: int = 0
    images: list[ImageSummary] = field(default_factory=list)

    def is_trainable(self) -> bool:
        """Returns whether all errors are of `WARNING_KINDS`."""
        return all(fault.kind in WARNING_KINDS for fault in self.faults)

    can_be_trained = is_trainable  # the name in version 0.1.0


def check_dataset(files: PanopticFiles, num_workers: int | None = None, show_progress: bool = False) -> CheckResult:
    """Checks a whole dataset; never raises because of the content of its files.

    `num_workers`: number of processes, by default one per core; 0 checks in this process.
    """
    result = CheckResult()
    panoptic = read_panoptic_json(files.panoptic_json, result.faults.append)
    result.label_space = panoptic.label_space
    if panoptic.label_space is not None:
        _check_classes(panoptic.label_space, files.panoptic_json, result.faults.append)
    instances: Mapping[Any, list] = {}
    if files.instances_json is not None and panoptic.label_space is not None:
        instances = read_instances_json(
            files.instances_json, panoptic.images, panoptic.label_space, result.faults.append
        )
    num_before = len(result.faults)
    files.check_folders(result.faults.append)
    if len(result.faults) > num_before:  # otherwise every single file would be reported as missing
        return result
    tasks = _tasks(files, panoptic, instances)
    checked = map_in_processes(check_image, tasks, num_workers)
    try:
        for found in with_progress(checked, len(tasks), "checking") if show_progress else checked:
            _add(result, found)
    except WorkerKilledError:
        text = "a process of the check was killed (out of memory?): try fewer --workers"
        result.faults.append(DatasetError(text, files.panoptic_json, "unexpected error"))
    if 0 < result.pixels == result.void_pixels:
        text = "all pixels of all images are void, so nothing can be learned or measured (a test split is like that)"
        result.faults.append(DatasetError(text, files.panoptic_json, "only void"))
    _check_orientations(result)
    return result


def check_image(task: Mapping[str, Any]) -> CheckResult:
    """Checks one image, its PNG (if it has an annotation), and its instances: all checks that need pixels."""
    result = CheckResult(num_images=1)
    report = result.faults.append
    segments, readable = [], False
    try:
        image = read_image(task, "RGB", report)
        readable = image is not None
        if "pan_seg_file_name" in task:
            segments = _check_annotation(task, result)
        is_right = readable and image.shape[:2] == (task["height"], task["width"])
        for instance in task["instances"] if is_right else ():  # masks are decoded at the size in the JSON
            _check_instance(task, instance, report)
    except Exception as error:  # an unforeseen error must not hide the others
        report(DatasetError(f"{type(error).__name__}: {error}", task["file_name"], "unexpected error"))
    image = ImageSummary(
        task["image_id"],
        task["file_name"],
        task["width"],
        task["height"],
        tuple(segments),
        result.void_pixels / max(result.pixels, 1),
        annotated=readable and result.pixels > 0,
        kinds=tuple(dict.fromkeys(fault.kind for fault in result.faults)),
    )
    result.images.append(image)
    return result


def format_result(name: str, result: CheckResult) -> str:
    """Returns the report as text: all errors by kind, with counts; for a trainable dataset also its contents."""
    if result.is_trainable():
        lines = [_headline(name, result), *_class_lines(result)]
    else:
        lines = [f"{name}: {counted(len(result.faults), 'problem')}"]
    for kind, faults in _by_kind(result).items():
        lines.append(f"{kind}: {len(faults)}{' (warning)' if kind in WARNING_KINDS else ''}")
        lines += [f"  {plain_line(str(fault))}" for fault in faults]
    return "\n".join(lines)


def format_summary(name: str, result: CheckResult) -> str:
    """Summarizes a dataset that `is_trainable`: images, segments per class, one line per kind of error."""
    warnings = [
        f"  warning: {len(f)} x {kind}, the first: {plain_line(str(f[0]))}" for kind, f in _by_kind(result).items()
    ]
    return "\n".join([_headline(name, result), *warnings, *_class_lines(result)])


def _headline(name: str, result: CheckResult) -> str:
    void = 100 * result.void_pixels / max(result.pixels, 1)
    total = sum(result.segments.values())
    return (
        f"{name}: no {'serious ' if result.faults else ''}problems in {counted(result.num_images, 'image')}, "
        f"{counted(total, 'segment')} "
        f"({result.num_crowds} of them crowds), {void:.1f}% of the pixels void"
    )


def _class_lines(result: CheckResult) -> list[str]:
    space = result.label_space
    kinds = (("thing", space.thing_ids, space.thing_classes), ("stuff", space.stuff_ids, space.stuff_classes))
    return [
        f"  {kind} {plain_line(name)}: {result.segments[i]}"
        for kind, ids, names in kinds
        for i, name in zip(ids, names, strict=True)
    ]


def _by_kind(result: CheckResult) -> dict[str, list[DatasetError]]:
    """Groups the errors by kind, in the order of `KINDS`; kinds without errors are left out."""
    found = {kind: [fault for fault in result.faults if fault.kind == kind] for kind in KINDS}
    return {kind: faults for kind, faults in found.items() if faults}


def _tasks(files: PanopticFiles, panoptic: PanopticJson, instances: Mapping[Any, list]) -> list[dict[str, Any]]:
    stuff_ids = set(panoptic.label_space.stuff_ids) if panoptic.label_space else set()
    tasks = []
    for image_id, image in panoptic.images.items():
        task = {
            "image_id": image_id,
            "file_name": os.path.join(files.images, image["file_name"]),
            "height": image["height"],
            "width": image["width"],
            "instances": instances.get(image_id, ()),
            "files": files,
            "stuff_ids": stuff_ids,
        }
        annotation = panoptic.annotations.get(image_id)
        if annotation is not None:
            task["pan_seg_file_name"] = os.path.join(files.panoptic_root, annotation["file_name"])
            task["segments_info"] = annotation["segments_info"]
        tasks.append(task)
    return tasks


def _check_classes(space: LabelSpace, path: str, report: Report) -> None:
    """Reports classes that restrict which networks can be trained."""
    if not space.thing_classes:
        text = "no category has isthing 1, so a semantic network is trained, without instances"
        report(DatasetError(text, path, "no thing class"))
    ontologies = space.fitting_ontologies()
    if "full" not in ontologies:
        try:
            space.num_channels("full")
        except UserError as error:  # its message lists the ontologies that can hold the classes
            kind = "needs another ontology" if ontologies else "too many classes"
            report(DatasetError(str(error), path, kind))


def _check_orientations(result: CheckResult) -> None:
    """Reports images whose size does not determine the orientation, if other images have labels in the stored one."""
    if not any(fault.kind == "stored orientation" for fault in result.faults):
        return
    for fault in [fault for fault in result.faults if fault.kind == "unclear orientation"]:
        text = (
            "other images of this dataset have their labels in the stored orientation, and here the size cannot tell; "
            "remove the orientation tag from the image (exiftool -Orientation= FILE) if its labels lie so, too"
        )
        result.faults.append(DatasetError(text, fault.file, "mixed orientation"))


def _check_annotation(task: Mapping[str, Any], result: CheckResult) -> list[tuple[int, int, int]]:
    """Checks and counts the segments of one image; returns them in the format of `ImageSummary.segments`."""
    file, segments = task["pan_seg_file_name"], task["segments_info"]
    report = result.faults.append
    _check_stuff(file, segments, task["stuff_ids"], report)
    labels = load_annotation(task, report)
    if labels is None:
        return []
    found = []
    boxes, areas = label_extents(labels, len(segments))
    for segment, (x0, y0, x1, y1), area in zip(segments, boxes.tolist(), areas.tolist(), strict=True):
        result.segments[segment["category_id"]] += 1
        result.num_crowds += segment.get("iscrowd", 0)
        if area == 0:
            continue  # already reported as "segment without pixel"
        found.append((segment["category_id"], segment.get("iscrowd", 0), area))
        if segment.get("area", area) != area:
            text = f"segment id {segment['id']} has {area} pixels; according to the JSON, {segment['area']}"
            report(DatasetError(text, file, "area mismatch"))
        box = [x0, y0, x1 - x0, y1 - y0]
        if not _boxes_agree(segment.get("bbox", box), box):
            text = f"segment id {segment['id']} has bbox {box}; according to the JSON, {segment['bbox']}"
            report(DatasetError(text, file, "bbox mismatch"))
    result.pixels += labels.size
    result.void_pixels += int(labels.size - areas.sum())
    return found


def _check_stuff(file: str, segments: Sequence[Mapping[str, Any]], stuff_ids: set[int], report: Report) -> None:
    stuff = [s for s in segments if s["category_id"] in stuff_ids]
    for segment in stuff:
        if segment.get("iscrowd", 0):
            text = f"segment id {segment['id']} is stuff (category {segment['category_id']}) and has iscrowd 1"
            report(DatasetError(text, file, "crowd stuff"))
    for category_id, count in Counter(s["category_id"] for s in stuff).items():
        if count > 1:
            text = f"stuff category {category_id} has {count} segments; it should be one"
            report(DatasetError(text, file, "several stuff segments of a class"))


def _check_instance(task: Mapping[str, Any], instance: Mapping[str, Any], report: Report) -> None:
    name = f"instance id {instance['id']} of image {os.path.basename(task['file_name'])!r}"
    mask = decode_segmentation(instance["segmentation"], task["height"], task["width"])
    if not mask.any():
        report(DatasetError(f"{name} has no pixel", task["files"].instances_json, "instance without pixel"))
    elif isinstance(instance["segmentation"], dict) and "bbox" in instance:  # boxes of polygons are not pixel boxes
        box = mask_api.toBbox(mask_api.encode(np.asfortranarray(mask))).tolist()
        if not _boxes_agree(instance["bbox"], box):
            text = f"{name} has bbox {[int(v) for v in box]}; according to the JSON, {instance['bbox']}"
            report(DatasetError(text, task["files"].instances_json, "bbox mismatch"))


def _boxes_agree(box: Sequence[float], other: Sequence[float]) -> bool:
    return all(abs(a - b) <= BOX_TOLERANCE for a, b in zip(box, other, strict=True))


def _add(result: CheckResult, found: CheckResult) -> None:
    result.faults += found.faults
    result.num_images += found.num_images
    result.segments.update(found.segments)
    result.num_crowds += found.num_crowds
    result.pixels += found.pixels
    result.void_pixels += found.void_pixels
    result.images += found.images

"""Processes one item of an import in a worker process: first reads it, then paints it."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as mask_api

from ...errors import DiskError
from ...files import file_state
from ..dataset_errors import DatasetError
from ..journal import append_record
from ..prepare.segments import describe_segments, write_png
from .images import embedded_suffix, image_header, place_image, turn_upright, upright_size
from .painting import PaintRules, paint
from .shapes import Dataset, ImageAnnotation, Shape, describe_error
from .tree import ImageIndex

VERSION = 2  # increase it when the same files give a different result, so that earlier results are recomputed


@dataclass
class Seen:
    """Result of the first pass over an item.

    Attributes:
        key: key of the item.
        name: file name of the image.
        image: path of the image; None if it is embedded or missing.
        state: text that changes when a file of the item changes.
        counts: {label: (objects, semantic, fraction of the image in their bounding box)}.
        fault: error that prevents the import of the item.
        problem: error of the first entry that cannot be read; painting reports all such entries.
    """

    key: str
    name: str = ""
    image: str | None = None
    split: str = ""
    state: str = ""
    counts: dict[str, tuple[int, bool, float]] = field(default_factory=dict)
    fault: DatasetError | None = None
    problem: DatasetError | None = None


@dataclass(frozen=True)
class Job:
    """Item to paint: its key, the location of its results, and the fingerprint of all their inputs."""

    key: str
    image: str | None
    image_target: str
    png_target: str
    fingerprint: str


@dataclass(frozen=True)
class Work:
    """State shared by all functions of a worker process, set by `start`."""

    dataset: Dataset
    index: ImageIndex
    keep_missing: bool
    rules: PaintRules | None = None
    category_ids: dict[str, int] = field(default_factory=dict)
    journal: str = ""
    copy: bool = False


_work: Work


def start(work: Work) -> None:
    """Prepares a worker process."""
    global _work
    _work = work


def look_at(key: str) -> Seen:
    """Reads one item without decoding pixels: its image, split and classes."""
    seen = Seen(key)
    try:
        annotation, image, size, _ = _open(key)
        seen.image, seen.split = image, annotation.split
        seen.name = os.path.basename(image) if image else _plain_name(annotation)
        seen.state = _state([annotation.file, image, *annotation.more_files])
        seen.problem = next(iter(annotation.faults), None)
        objects: dict[str, set] = {}
        boxes: dict[str, list[float]] = {}
        for shape_index, shape in enumerate(annotation.shapes):
            group = shape_index if shape.group is None else (shape.group, "")
            objects.setdefault(shape.label, set()).add(0 if shape.semantic else group)
            if _work.dataset.objects == "unknown":
                _enclose(boxes.setdefault(shape.label, [size[1], size[0], 0, 0]), shape, size)
            before = seen.counts.get(shape.label, (0, True, 0.0))
            seen.counts[shape.label] = (len(objects[shape.label]), shape.semantic and before[1], 0.0)
        for label, (left, top, right, bottom) in boxes.items():
            share = max(0.0, right - left) * max(0.0, bottom - top) / (size[0] * size[1])
            seen.counts[label] = (*seen.counts[label][:2], share)
    except DatasetError as error:
        seen.fault = error
    except Exception as error:  # one invalid item must not end the import
        seen.fault = DatasetError(
            describe_error(error) + ". Export it again or remove it.", key, "bad annotation entry"
        )
    return seen


def paint_item(job: Job) -> dict[str, Any]:
    """Paints one item: writes its PNG and image, then its record in the journal; returns the record."""
    record: dict[str, Any] = {"key": job.key, "fingerprint": job.fingerprint, "target": job.png_target}
    record |= {"image": None, "faults": [], "notes": {}}
    try:
        _paint(job, record)
    except DiskError:  # not an error of the item: the next run paints it
        raise
    except DatasetError as error:
        record["faults"].append([str(error), error.file, error.kind])
    except Exception as error:
        text = describe_error(error) + ". Export it again or remove it."
        record["faults"].append([f"{job.key}: {text}", job.key, "bad annotation entry"])
    append_record(_work.journal, record)
    return record


def _paint(job: Job, record: dict[str, Any]) -> None:
    annotation, image, size, orientation = _open(job.key)
    painted = paint(annotation, annotation.size or size, _work.rules)
    for name in painted.empty:
        annotation.fault(f"{name} covers no pixel of the image. Fix or remove it.", "empty annotation")
    turned = annotation.size is not None and annotation.size != size
    id_map, instances = painted.id_map, painted.instances
    if turned:
        id_map = turn_upright(id_map, orientation)
        instances = [_turned(instance, orientation) for instance in instances]
        painted.notes["labels turned to the Exif orientation of their image"] += 1
    categories = {i: (_work.category_ids[label], crowd) for i, (label, crowd) in painted.segments.items()}
    pixels, segments = describe_segments(id_map, categories)
    record["faults"] = [[str(fault), fault.file, fault.kind] for fault in annotation.faults]
    record["notes"] = dict(annotation.notes + painted.notes)
    if not segments:
        record["notes"]["images left out: no shape of a class (--unlabeled NAME keeps them)"] = 1
        return
    if not _work.dataset.amodal:
        instances = []
    for instance in instances:
        instance["category_id"] = _work.category_ids[instance.pop("label")]
    target = Path(job.image_target)
    target.parent.mkdir(parents=True, exist_ok=True)
    Path(job.png_target).parent.mkdir(parents=True, exist_ok=True)
    if image is not None or annotation.image_bytes is not None:
        place_image(image, annotation.image_bytes if image is None else None, target, _work.copy)
    write_png(pixels, Path(job.png_target))
    record["image"] = {"height": id_map.shape[0], "width": id_map.shape[1]}
    record["segments"], record["instances"] = segments, instances


def _open(key: str) -> tuple[ImageAnnotation, str | None, tuple[int, int], int]:
    """Returns an item's annotation, the path of its image or None, the size to paint, and the image's orientation."""
    annotation = _work.dataset.read(_work.dataset.items[key])
    near, own = os.path.dirname(annotation.file), {annotation.file, *annotation.more_files}
    image = _work.index.find(annotation.image_names, near, annotation.split, own)
    source = image if image is not None else annotation.image_bytes
    if source is None:
        if _work.keep_missing and annotation.size is not None:
            return annotation, None, annotation.size, 1
        names = " or ".join(repr(name) for name in dict.fromkeys(annotation.image_names[:2])) or "its image"
        text = f"the image {names} was not found. Put it next to the annotations, or name its folder by --images-root."
        raise DatasetError(text, annotation.file, "missing image")
    stored, orientation = image_header(source, image or annotation.file)
    size = upright_size(stored, orientation)
    if annotation.size not in (None, size, stored):
        height, width = annotation.size
        masks = f" with {annotation.more_files[0]}" if annotation.more_files else ""
        text = (
            f"the annotation{masks} is for {width}x{height}, its image {image or ''} is {size[1]}x{size[0]}. "
            "Use the image that was annotated, or leave it out."
        )
        raise DatasetError(text, annotation.file, "wrong image size")
    return annotation, image, size, orientation


def _enclose(box: list[float], shape: Shape, size: tuple[int, int]) -> None:
    """Extends a box (left, top, right, bottom) to include a shape, clipped to the image."""
    try:
        left, top, right, bottom = shape.geometry.bounds(*size)
    except Exception:  # painting reports the error
        return
    box[0], box[1] = max(0.0, min(box[0], left)), max(0.0, min(box[1], top))
    box[2], box[3] = min(size[1], max(box[2], right)), min(size[0], max(box[3], bottom))


def _turned(instance: dict[str, Any], orientation: int) -> dict[str, Any]:
    mask = turn_upright(mask_api.decode(instance["segmentation"]), orientation)
    rle = mask_api.encode(np.asfortranarray(mask))
    rle = {"size": [int(v) for v in rle["size"]], "counts": rle["counts"].decode("ascii")}
    return {**instance, "segmentation": rle, "bbox": [int(v) for v in mask_api.toBbox(rle)]}


def _plain_name(annotation: ImageAnnotation) -> str:
    """Returns a file name for an embedded or missing image."""
    names = annotation.image_names or [Path(annotation.file).stem]
    name = names[0].replace("\\", "/").split("?")[0].rsplit("/", 1)[-1] or Path(annotation.file).stem
    if annotation.image_bytes is not None:
        return os.path.splitext(name)[0] + embedded_suffix(annotation.image_bytes)
    return name


def _state(files: list[str | None]) -> str:
    state = [(file, *(file_state(file) or (0, 0))) for file in filter(None, files)]
    return hashlib.sha1(json.dumps(state).encode(errors="surrogateescape")).hexdigest()

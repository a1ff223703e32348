"""Converts one split: in parallel, resumable after an interruption at any point, without repeating finished work.

Finished images are recorded in the journal, `<json>.journal`: one JSON line per image, appended by the worker after the
image's PNG is in place. The line holds size and modification time of the files that the image was converted from; if
they change, the next run converts the image again. The journal is therefore kept. The JSON is written when the journal
covers all images. It is removed while images are converted, so that it never describes older PNGs. PNGs and JSON files
are written under a temporary name and renamed, so that none is ever incomplete.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ...errors import DiskError, UserError
from ...files import file_state, remove_partial_files, write_json
from ...locks import locked_file
from ...processes import default_workers
from ..journal import append_record, map_unordered, read_records
from .segments import write_png


@dataclass(frozen=True)
class Source:
    """One annotation to convert.

    image_id, image_name: id and file_name of its image in the JSON.
    path: its own path.
    png_name: name of the PNG.
    more_files: paths of other files that the result depends on.
    """

    image_id: str | int
    image_name: str
    path: str
    png_name: str
    more_files: tuple[str, ...] = ()

    def state(self) -> list[list[int] | None]:
        """Returns [size, mtime_ns] of each file that the result depends on, None for a missing one."""
        return [file_state(path) for path in (self.path, *self.more_files)]


@dataclass(frozen=True)
class Converted:
    """Result of converting one annotation.

    pixels: (H, W, 3) uint8.
    segments: as returned by `describe_segments`.
    notes: counts of what the user should know (text -> number of occurrences).
    """

    pixels: np.ndarray
    segments: list[dict[str, Any]]
    notes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class SplitPlan:
    """Everything needed to convert one split.

    `convert` is a module-level function (it is sent to other processes) or a partial of one; `info`, if not None,
    becomes the entry `info` of the JSON.
    """

    panoptic_json: Path
    panoptic_root: Path
    categories: list[dict[str, Any]]
    sources: Sequence[Source]
    convert: Callable[[Source], Converted]
    info: dict[str, Any] | None = None

    @property
    def journal(self) -> Path:
        """Path of the journal, next to the JSON."""
        return self.panoptic_json.with_name(self.panoptic_json.name + ".journal")


@dataclass(frozen=True)
class SplitResult:
    """Result of `run_split`.

    converted: number of images converted by this run.
    kept: number of images converted by earlier runs.
    notes: notes of all images (text -> count).
    """

    converted: int
    kept: int
    notes: dict[str, int]


def run_split(plan: SplitPlan, workers: int | None = None, force: bool = False, progress: bool = True) -> SplitResult:
    """Converts the remaining annotations of a split and writes its JSON.

    Args:
        plan: plan of the split.
        workers: number of processes; default: one per core.
        force: whether to discard the results of earlier runs.
        progress: whether to show a bar with the remaining time.

    Raises:
        UserError: if annotations could not be converted (all others are converted and kept), the folder holds a
            conversion to other categories, or another run is active.
    """
    plan.panoptic_root.mkdir(parents=True, exist_ok=True)
    with locked_file(plan.panoptic_json):
        remove_partial_files(plan.panoptic_root)
        if force:
            plan.panoptic_json.unlink(missing_ok=True)
            plan.journal.unlink(missing_ok=True)
        before = _read_json(plan) if plan.panoptic_json.is_file() else None
        in_journal = _read_journal(plan)
        done = _usable(plan, _records(before) | in_journal)
        todo = [source for source in plan.sources if source.image_id not in done]
        if todo and before is not None:  # a killed run must not leave this JSON next to newer PNGs
            for image_id in done.keys() - in_journal.keys():
                append_record(plan.journal, done[image_id])
            plan.panoptic_json.unlink()
        errors = _convert_all(plan, todo, len(done), workers or default_workers(), progress)
        if errors:
            shown = "; ".join(errors[:5]) + (f"; and {len(errors) - 5} more" if len(errors) > 5 else "")
            raise UserError(f"{len(errors)} of {len(plan.sources)} annotations could not be converted: {shown}")
        if todo:
            done |= _read_journal(plan)
        remove_partial_files(plan.panoptic_root)  # also of workers that were still ending at the start
        content = _content(plan, done)
        if todo or content != before:
            write_json(plan.panoptic_json, content, sort_keys=True)
    notes: dict[str, int] = {}
    for record in done.values():
        for text, count in record.get("notes", {}).items():
            notes[text] = notes.get(text, 0) + count
    return SplitResult(len(todo), len(plan.sources) - len(todo), notes)


# -- the work --------------------------------------------------------------------------------------------------------


def _convert_all(plan: SplitPlan, todo: list[Source], before: int, workers: int, progress: bool) -> list[str]:
    """Converts all of `todo`; returns one error text per failed annotation."""
    task = partial(_convert_one, plan.convert, str(plan.panoptic_root), str(plan.journal))
    results = map_unordered(task, todo, workers)
    bar = tqdm(
        results,
        desc=plan.panoptic_root.name,
        unit="image",
        total=before + len(todo),
        initial=before,
        disable=not progress,
    )
    return list(filter(None, bar))


def _convert_one(
    convert: Callable[[Source], Converted], panoptic_root: str, journal: str, source: Source
) -> str | None:
    """Converts one annotation: writes its PNG, then its journal line; returns the error, if any."""
    state = source.state()  # before the files are read, so that a change in the meantime is noticed
    try:
        converted = convert(source)
    except DiskError:
        raise
    except (ValueError, FileNotFoundError) as error:
        return str(error)
    write_png(converted.pixels, Path(panoptic_root, source.png_name))
    height, width = converted.pixels.shape[:2]
    names = {"image_id": source.image_id, "file_name": source.png_name}
    record = {
        "image": {"id": source.image_id, "file_name": source.image_name, "height": height, "width": width},
        "annotation": {**names, "segments_info": converted.segments},
        "notes": converted.notes,
        "sources": state,
    }
    append_record(journal, record)
    return None


# -- what is finished ------------------------------------------------------------------------------------------------


def _usable(plan: SplitPlan, records: dict[Any, dict[str, Any]]) -> dict[Any, dict[str, Any]]:
    """Returns the records (image id -> record) that belong to a source, unchanged since, and whose PNG exists.

    A JSON of an earlier version or of another program has no journal; its sources are taken as unchanged.
    """
    sources = {source.image_id: source for source in plan.sources}
    pngs = set(os.listdir(plan.panoptic_root))

    def usable(source: Source | None, record: dict[str, Any]) -> bool:
        if source is None or record["annotation"]["file_name"] != source.png_name or source.png_name not in pngs:
            return False
        return "sources" not in record or record["sources"] == source.state()

    return {image_id: record for image_id, record in records.items() if usable(sources.get(image_id), record)}


def _read_journal(plan: SplitPlan) -> dict[Any, dict[str, Any]]:
    if not plan.journal.is_file():
        return {}
    return {record["annotation"]["image_id"]: record for record in read_records(plan.journal)}


def _read_json(plan: SplitPlan) -> dict[str, Any]:
    """Returns the existing JSON; raises UserError if it is not a panoptic JSON or has other categories."""
    try:
        content = json.loads(plan.panoptic_json.read_bytes())
        found = {c["id"]: (c["name"], c["isthing"]) for c in content["categories"]}
        _records(content)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{plan.panoptic_json} is not a COCO panoptic JSON; --force replaces it") from error
    if found != {c["id"]: (c["name"], c["isthing"]) for c in plan.categories}:
        raise UserError(f"{plan.panoptic_json} has other categories than this conversion makes; --force replaces it")
    return content


def _records(content: dict[str, Any] | None) -> dict[Any, dict[str, Any]]:
    """Returns the records of a panoptic JSON in the format of the journal."""
    if content is None:
        return {}
    images = {image["id"]: image for image in content["images"]}
    return {a["image_id"]: {"image": images[a["image_id"]], "annotation": a} for a in content["annotations"]}


def _content(plan: SplitPlan, done: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    """Returns the split's JSON content, in the order of the sources."""
    images = [{**done[source.image_id]["image"], "file_name": source.image_name} for source in plan.sources]
    annotations = [done[source.image_id]["annotation"] for source in plan.sources]
    content = {"images": images, "annotations": annotations, "categories": plan.categories}
    return content if plan.info is None else {**content, "info": plan.info}

"""Result of an import: its report, and the JSON files, which are written from the journal one record at a time."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...files import write_atomically
from ..dataset_errors import DatasetError
from ..journal import read_records
from .classes import Category
from .work import Job

SPLITS = ("train", "val", "test")
PROBLEMS = "problems.txt"  # file in the output folder with one line per skipped item


@dataclass
class ImportResult:
    """Summary of an import.

    Attributes:
        format: name of the format that was read.
        source: folder or file of the annotations.
        output: folder of the result.
        categories: classes, with the reason why each is a thing or stuff.
        images: {split: number of images}; the split is "" for a dataset without splits.
        segments: {category id: number of segments in the panoptic maps}.
        order: rule by which overlaps were resolved.
        painted: number of images painted by this run; all others were already finished.
        faults: everything that was skipped, with the file and a remedy.
        notes: counts of events that the user should know about.
    """

    format: str
    source: str
    output: str
    categories: list[Category]
    order: str
    images: Counter = field(default_factory=Counter)
    segments: Counter = field(default_factory=Counter)
    crowds: int = 0
    painted: int = 0
    faults: list[DatasetError] = field(default_factory=list)
    notes: Counter = field(default_factory=Counter)


def finished(journal: Path, jobs: Mapping[str, Job]) -> set[str]:
    """Returns the keys of the jobs whose results exist and were made from the same files and rules."""
    # An earlier record is of results that were replaced, even if the item has the same files and rules again. So is the
    # record of an item whose PNG another item has replaced, while it was missing.
    last, painted_by = {}, {}
    for record in read_records(journal):
        if isinstance(record, dict) and "key" in record:
            last[record["key"]] = record["fingerprint"], record["image"] is not None
            painted_by[record.get("target")] = record["key"]
    done = set()
    for key, job in jobs.items():
        fingerprint, has_results = last.get(key, ("", False))
        files = [job.png_target, *([job.image_target] if job.image is not None else [])] if has_results else []
        is_current = fingerprint == job.fingerprint and painted_by.get(job.png_target, key) == key
        if is_current and all(map(os.path.isfile, files)):
            done.add(key)
    return done


def write_result(journal: Path, jobs: Mapping[str, Job], amodal: bool, result: ImportResult) -> None:
    """Writes the JSON files of every split from the journal, one record at a time."""
    output = Path(result.output)
    places = {}
    with open(journal, "rb") as file:
        offset = 0
        for line in file:
            try:
                record = json.loads(line)
                job = jobs[record["key"]]
                if record["fingerprint"] == job.fingerprint:
                    places[job.key] = offset
            except (ValueError, KeyError, TypeError):
                pass  # empty, cut off by an interruption, or of an item that no longer exists
            offset += len(line)
        splits: dict[str, list[str]] = {}
        for key, job in jobs.items():
            folder = os.path.relpath(os.path.dirname(os.path.dirname(job.png_target)), output)
            splits.setdefault("" if folder == "." else folder, []).append(key)
        for folder in ("", *SPLITS):
            for name in ("panoptic.json", "instances.json"):
                if folder not in splits:
                    (output / folder / name).unlink(missing_ok=True)

        def records(keys: Sequence[str]) -> Iterator[dict[str, Any]]:
            for key in keys:
                if key in places:
                    file.seek(places[key])
                    yield json.loads(file.readline())

        for split, keys in splits.items():
            for record in records(keys):
                _summarize(record, split, result)
        if not result.images:
            first = f": {result.faults[0]}" if result.faults else f" ({'; '.join(result.notes)})"
            raise UserError(f"no image of {result.source} has a shape that can be painted{first}")
        for split in set(splits) - set(result.images):
            text = f"no image of the {split} split could be imported. Correct them, or import the other split alone."
            result.faults.append(DatasetError(text, str(output / split), "empty split"))
        for split, keys in splits.items():
            ids = {key: number for number, key in enumerate(keys, start=1)}
            entries = [category.entry() for category in result.categories]
            things = [category.entry() for category in result.categories if category.isthing]
            _write_json(output / split / "panoptic.json", entries, records, ids, jobs, _annotation)
            target = output / split / "instances.json"
            if amodal and things:
                _write_json(target, things, records, ids, jobs, _instances)
            else:
                target.unlink(missing_ok=True)


def _summarize(record: dict[str, Any], split: str, result: ImportResult) -> None:
    for text, file, kind in record["faults"]:
        fault = DatasetError(text)
        fault.file, fault.kind = file, kind
        result.faults.append(fault)
    result.notes.update(record["notes"])
    if record["image"] is not None:
        result.images[split] += 1
        result.segments.update(segment["category_id"] for segment in record["segments"])
        result.crowds += sum(segment["iscrowd"] for segment in record["segments"])


def _annotation(record: dict[str, Any], image_id: int, job: Job) -> Iterator[dict[str, Any]]:
    yield {"image_id": image_id, "file_name": os.path.basename(job.png_target), "segments_info": record["segments"]}


def _instances(record: dict[str, Any], image_id: int, job: Job) -> Iterator[dict[str, Any]]:
    for instance in record["instances"]:
        yield {"image_id": image_id, **instance}


def _write_json(path: Path, categories: list, records: Any, ids: Mapping, jobs: Mapping, entries: Any) -> None:
    """Writes a COCO JSON as a stream; `entries` makes the annotations of a record."""

    def write(file: Any) -> None:
        file.write(b'{"images": [')
        comma = b"\n"
        for record in records(ids):
            if record["image"] is not None:
                name = os.path.basename(jobs[record["key"]].image_target)
                image = {"id": ids[record["key"]], "file_name": name, **record["image"]}
                file.write(comma + json.dumps(image).encode())
                comma = b",\n"
        file.write(b'],\n"annotations": [')
        comma, number = b"\n", 0
        for record in records(ids):
            if record["image"] is not None:
                for entry in entries(record, ids[record["key"]], jobs[record["key"]]):
                    number += 1
                    entry = {**entry, "id": number} if "segmentation" in entry else entry
                    file.write(comma + json.dumps(entry).encode())
                    comma = b",\n"
        file.write(b'],\n"categories": ' + json.dumps(categories).encode() + b"}\n")

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, write)

"""Imports a folder of annotations: recognizes it, looks at every item, decides the classes, and paints.

The result has the layout that `own_folder.find_data` accepts. Work is kept in a journal, `.import/journal`: an item whose
files and rules are unchanged is not painted again, so a killed import resumes, and changed files are imported alone.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ...errors import UserError
from ...files import unused_name, write_atomically, write_json
from ..faults import DatasetError
from ..journal import default_workers, locked, map_unordered, read_records
from . import work
from .classes import Category, ClassCount, make_categories
from .formats import open_dataset
from .painting import PaintRules
from .shapes import ORDERS, Dataset
from .tree import ImageIndex, Tree

MARKER = "import.json"
SPLITS = ("train", "val", "test")


@dataclass
class ImportResult:
    """What an import did.

    Attributes:
        format: the format that was read.
        output: folder of the result.
        categories: classes, with why they are things or stuff.
        images: split -> number of images; the split is "" for a data set that is not divided.
        segments: category id -> number of segments in the panoptic maps.
        order: how overlaps were resolved.
        painted: number of images painted by this run; the others were finished before.
        faults: everything that was left out, with file and remedy.
        notes: counts of what the user should know.
    """

    format: str
    output: str
    categories: list[Category]
    order: str
    images: Counter = field(default_factory=Counter)
    segments: Counter = field(default_factory=Counter)
    crowds: int = 0
    painted: int = 0
    faults: list[DatasetError] = field(default_factory=list)
    notes: Counter = field(default_factory=Counter)


def import_annotations(
    path: str | os.PathLike,
    output: str | os.PathLike,
    *,
    format: str | None = None,
    things: Sequence[str] | None = None,
    stuff: Sequence[str] | None = None,
    order: str | None = None,
    boxes: str | None = None,
    unlabeled: str | None = None,
    images_root: str | os.PathLike | None = None,
    copy_images: bool = False,
    keep_missing: bool = False,
    workers: int | None = None,
    progress: bool = False,
) -> ImportResult:
    """Imports annotations of any supported tool as a COCO panoptic data set.

    Args:
        path: folder or file of annotations. Nothing in it is changed.
        output: folder of the result; new, empty, or of an earlier import of the same path.
        format: name of the format; recognized by default.
        things, stuff: names of classes. With one of the two alone, all other classes are of the other kind.
        order: how overlaps are resolved, one of `ORDERS`; by default what suits the format.
        boxes: "mask" paints boxes, "skip" leaves them out; by default what suits the format.
        unlabeled: name of a stuff class for pixels without a label; void by default.
        images_root: another folder to search for images.
        copy_images: copies the images instead of linking them.
        keep_missing: imports annotations without an image, if they hold its size.
        workers: number of processes; by default one per core.
        progress: shows bars with the time left.

    Raises:
        UserError: if nothing can be imported; single bad files are in the result's `faults`.
    """
    for option, value, known in (("--overlaps", order, ORDERS), ("--boxes", boxes, ("mask", "skip"))):
        if value is not None and value not in known:
            raise UserError(f"{option} is {value!r}; available: {', '.join(known)}")
    output = Path(output).expanduser().absolute()
    tree, index, dataset = _open(path, output, format, images_root)
    marker = {"source": str(tree.root / (tree.single or "")), "format": dataset.format}
    _claim(output, marker)
    workers = workers or default_workers()
    common = work.Work(dataset, index, keep_missing)
    bar = _bar("looking", len(dataset.keys), progress)
    seen = _in_order(
        dataset.keys, bar(map_unordered(work.look_at, dataset.keys, workers, work.start, (common,)))
    )
    good, faults = _usable(seen)
    if not good:
        first = f": {faults[0]}" if faults else ""
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise UserError(f"{tree.root}: no image of these {dataset.format} files can be imported{first}{more}")
    categories = make_categories(dataset, _count(good), things, stuff, unlabeled)
    rules = PaintRules(
        frozenset(c.name for c in categories if c.isthing),
        order or dataset.order,
        (boxes or dataset.boxes) == "mask",
        unlabeled,
    )
    result = ImportResult(dataset.format, str(output), categories, rules.order, faults=dataset.faults + faults)
    result.notes.update(dataset.notes)
    journal = output / ".import" / "journal"
    common = replace(
        common, rules=rules, category_ids={c.name: c.id for c in categories}, journal=str(journal), copy=copy_images
    )
    jobs = _jobs(good, output, common, categories)
    with locked(journal):
        done = {key for key, _ in _finished(journal, jobs)}
        todo = [job for job in jobs.values() if job.key not in done]
        bar = _bar("painting", len(jobs), progress, len(done))
        for _ in bar(map_unordered(work.paint_item, todo, workers, work.start, (common,))):
            pass
        result.painted = len(todo)
        _write(journal, jobs, categories, dataset.amodal, result)
    write_json(output / MARKER, {**marker, "things": [c.name for c in categories if c.isthing], "complete": True})
    return result


def _open(
    path: str | os.PathLike, output: Path, format: str | None, images_root: str | os.PathLike | None
) -> tuple[Tree, ImageIndex, Dataset]:
    path = Path(path).expanduser()
    if not path.exists():
        raise UserError(f"{path} does not exist; name the folder or file of the annotations")
    if images_root is not None and not Path(images_root).expanduser().is_dir():
        raise UserError(f"--images-root {images_root} is not a folder")
    if path.is_dir() and output == path.absolute():
        raise UserError(f"--output {output} is the folder of the annotations; choose a different one")
    tree = Tree(path, leave_out=output)
    dataset = open_dataset(tree, format)
    if not dataset.items:
        reason = f": {dataset.faults[0]}" if dataset.faults else ""
        raise UserError(f"{path}: no annotation was found in these {dataset.format} files{reason}")
    return tree, ImageIndex(tree, images_root), dataset


def _claim(output: Path, marker: Mapping[str, Any]) -> None:
    """Makes the output folder, or checks that it is of an earlier import of the same files."""
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output} is a file; choose a folder")
    path = output / MARKER
    if path.is_file():
        try:
            before = json.loads(path.read_bytes())
            same = before["source"] == marker["source"]
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path} is damaged; remove {output} or choose a different --output") from None
        if not same:
            raise UserError(f"{output} holds an import of {before['source']}; choose a different --output")
    elif output.is_dir() and any(output.iterdir()):
        raise UserError(f"{output} is not empty and holds no import; choose a new folder")
    (output / ".import").mkdir(parents=True, exist_ok=True)
    write_json(path, {**marker, "complete": False})


def _bar(text: str, total: int, progress: bool, initial: int = 0) -> Any:
    def wrap(results: Iterator[Any]) -> Iterator[Any]:
        return tqdm(results, desc=text, total=total, initial=initial, unit="image", disable=not progress)

    return wrap


def _in_order(keys: Sequence[str], seen: Iterator[work.Seen]) -> list[work.Seen]:
    by_key = {found.key: found for found in seen}
    return [by_key[key] for key in keys]


def _usable(seen: Sequence[work.Seen]) -> tuple[list[work.Seen], list[DatasetError]]:
    """The items that can be painted, one per image, and the faults of the others."""
    good, faults, first = [], [], {}
    for found in seen:
        if found.fault is not None:
            faults.append(found.fault)
        elif found.image is not None and first.setdefault(found.image, found.key) != found.key:
            text = f"{first[found.image]} and {found.key} annotate the same image. Merge them or remove one."
            faults.append(DatasetError(text, found.image, "duplicate annotation"))
        else:
            good.append(found)
    return good, faults


def _count(seen: Sequence[work.Seen]) -> dict[str, ClassCount]:
    counts: dict[str, ClassCount] = {}
    for found in seen:
        for label, entry in found.counts.items():
            counts.setdefault(label, ClassCount()).add(*entry)
    return counts


def _jobs(
    seen: Sequence[work.Seen], output: Path, common: work.Work, categories: Sequence[Category]
) -> dict[str, work.Job]:
    """What to paint, and where: below the splits if the source has a training split and another one."""
    splits = {found.split for found in seen}
    divided = bool(splits & {"val", "test"}) and bool(splits & {"train", ""})
    rules = repr((work.VERSION, common.rules.order, common.rules.boxes, common.rules.unlabeled, common.copy))
    rules += repr(sorted(common.rules.things)) + repr([(c.id, c.name) for c in categories])
    used: dict[str, set[str]] = {}
    jobs = {}
    for found in seen:
        split = (found.split or "train") if divided else ""
        taken = used.setdefault(split, set())
        stem, suffix = os.path.splitext(found.name)
        stem = unused_name(stem, taken)
        folder = output / split
        targets = str(folder / "images" / (stem + suffix)), str(folder / "panoptic" / f"{stem}.png")
        text = json.dumps([rules, found.state, *targets])
        fingerprint = hashlib.sha1(text.encode(errors="surrogateescape")).hexdigest()
        jobs[found.key] = work.Job(found.key, found.image, *targets, fingerprint)
    return jobs


def _finished(journal: Path, jobs: Mapping[str, work.Job]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The records of the jobs that are done: painted with the same files and rules, and still in place."""
    seen: set[str] = set()
    for record in read_records(journal):
        job = jobs.get(record.get("key")) if isinstance(record, dict) else None
        if job is None or record["fingerprint"] != job.fingerprint or job.key in seen:
            continue
        if record["image"] is not None and not os.path.isfile(job.png_target):
            continue
        if record["image"] is not None and job.image is not None and not os.path.isfile(job.image_target):
            continue
        seen.add(job.key)
        yield job.key, record


def _write(
    journal: Path, jobs: Mapping[str, work.Job], categories: Sequence[Category], amodal: bool, result: ImportResult
) -> None:
    """Writes the jsons of every split from the journal, one record at a time."""
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
                pass  # empty, cut short by a kill, or of an item that is gone
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
            raise UserError(f"no image of {result.output} has a shape that can be painted{first}")
        for split, keys in splits.items():
            ids = {key: number for number, key in enumerate(keys, start=1)}
            entries = [category.entry() for category in categories]
            things = [category.entry() for category in categories if category.isthing]
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


def _annotation(record: dict[str, Any], image_id: int, job: work.Job) -> Iterator[dict[str, Any]]:
    yield {"image_id": image_id, "file_name": os.path.basename(job.png_target), "segments_info": record["segments"]}


def _instances(record: dict[str, Any], image_id: int, job: work.Job) -> Iterator[dict[str, Any]]:
    for instance in record["instances"]:
        yield {"image_id": image_id, **instance}


def _write_json(path: Path, categories: list, records: Any, ids: Mapping, jobs: Mapping, entries: Any) -> None:
    """Writes a COCO json as a stream: `entries` makes the annotations of a record."""

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

"""Imports a folder of annotations: detects its format, reads every item, decides the classes, and paints.

The result has the layout that `custom_dataset.find_dataset` accepts. Finished work is recorded in a journal,
`.import/journal`. Items whose files and rules are unchanged are not painted again. An interrupted import therefore
resumes, and after a change only the changed files are imported.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import UserError, plain_line
from ...files import remove_partial_files, unused_name, write_json
from ...locks import locked_folder
from ...processes import default_workers, with_progress
from ..dataset_errors import DatasetError
from ..journal import map_unordered
from . import work
from .classes import Category, ClassCount, make_categories
from .formats import open_dataset
from .painting import PaintRules
from .result import PROBLEMS, ImportResult, finished, write_result
from .shapes import ORDERS, Dataset
from .tree import ImageIndex, Tree

MARKER = "import.json"


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
    """Imports annotations of any supported tool as a COCO panoptic dataset.

    Args:
        path: folder or file of annotations, which is not modified.
        output: folder of the result: new, empty, or from an earlier import of the same path.
        format: name of the format; detected by default.
        things, stuff: names of thing and stuff classes. If only one is given, all other classes are of the other kind.
        order: rule for overlaps, one of `ORDERS`; by default the rule of the format.
        boxes: "mask" paints boxes, "skip" ignores them; by default the rule of the format.
        unlabeled: name of a stuff class for pixels without a label, which are void by default.
        images_root: additional folder to search for images.
        copy_images: whether to copy the images instead of linking them.
        keep_missing: whether to import annotations without an image, if they contain its size.
        workers: number of processes; by default one per core.
        progress: whether to show progress bars with the time left.

    Raises:
        UserError: nothing can be imported. Individual invalid files are listed in the result's `faults`.
    """
    for option, value, known in (("--overlaps", order, ORDERS), ("--boxes", boxes, ("mask", "skip"))):
        if value is not None and value not in known:
            raise UserError(f"{option} is {value!r}; available: {', '.join(known)}")
    output = Path(os.path.expanduser(output)).absolute()
    tree, index, dataset = _open(path, output, format, images_root)
    marker = {"source": str(tree.root / (tree.single or "")), "format": dataset.format}
    _claim(output, marker)
    workers = workers or default_workers()
    common = work.Work(dataset, index, keep_missing)
    results = map_unordered(work.look_at, dataset.keys, workers, work.start, (common,))
    seen = _in_order(dataset.keys, _shown(results, len(dataset.keys), "looking", progress))
    good, faults = _usable(seen)
    if not good:
        first = f": {faults[0]}" if faults else ""
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise UserError(f"{tree.root}: no image of these {dataset.format} files can be imported{first}{more}")
    try:
        categories = make_categories(dataset, _count(good), things, stuff, unlabeled)
    except UserError as error:
        problems = dataset.faults + faults + [found.problem for found in good if found.problem is not None]
        if not problems:
            raise
        raise UserError(f"{error}. {len(problems)} files could not be read, the first: {problems[0]}") from None
    rules = PaintRules(
        frozenset(c.name for c in categories if c.isthing),
        order or dataset.order,
        (boxes or dataset.boxes) == "mask",
        unlabeled,
    )
    faults = dataset.faults + faults
    result = ImportResult(dataset.format, marker["source"], str(output), categories, rules.order, faults=faults)
    result.notes.update(dataset.notes)
    journal = output / ".import" / "journal"
    common = replace(
        common, rules=rules, category_ids={c.name: c.id for c in categories}, journal=str(journal), copy=copy_images
    )
    jobs = _jobs(good, output, common, categories)
    with locked_folder(journal.parent, f"--output {output}"):
        journal.touch()
        done = finished(journal, jobs)
        todo = [job for job in jobs.values() if job.key not in done]
        results = map_unordered(work.paint_item, todo, workers, work.start, (common,))
        for _ in _shown(results, len(todo), "painting", progress):
            pass
        for folder in {os.path.dirname(path) for job in jobs.values() for path in (job.png_target, job.image_target)}:
            remove_partial_files(folder)  # at the end, when all workers of killed runs have ended, too
        result.painted = len(todo)
        write_result(journal, jobs, dataset.amodal, result)
    (output / PROBLEMS).write_text("".join(f"{plain_line(str(fault))}\n" for fault in result.faults), "utf-8")
    write_json(output / MARKER, {**marker, "things": [c.name for c in categories if c.isthing], "complete": True})
    return result


def _open(
    path: str | os.PathLike, output: Path, format: str | None, images_root: str | os.PathLike | None
) -> tuple[Tree, ImageIndex, Dataset]:
    path = Path(os.path.expanduser(path))
    if not path.exists():
        raise UserError(f"{path} does not exist; name the folder or file of the annotations")
    if images_root is not None and not os.path.isdir(os.path.expanduser(images_root)):
        raise UserError(f"--images-root {images_root} is not a folder")
    if path.is_dir() and output == path.absolute():
        raise UserError(f"--output {output} is the folder of the annotations; choose a different one")
    tree = Tree(path, leave_out=output)
    dataset = open_dataset(tree, format)
    if not dataset.items:
        reason = f": {dataset.faults[0]}" if dataset.faults else ""
        advice = "Export them again, or choose another --format"
        raise UserError(f"{path}: no annotation was found in these {dataset.format} files{reason}. {advice}")
    return tree, ImageIndex(tree, images_root), dataset


def _is_half_marker(path: Path) -> bool:
    """Returns whether an import was killed while it wrote this file, its first one."""
    return path.name.startswith(f".{MARKER}.") and path.suffix == ".partial"


def _claim(output: Path, marker: Mapping[str, Any]) -> None:
    """Creates the output folder, or checks that it belongs to an earlier import of the same files."""
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
    elif output.is_dir() and any(found.name != ".import" and not _is_half_marker(found) for found in output.iterdir()):
        raise UserError(f"{output} is not empty and holds no import; choose a new folder")
    (output / ".import").mkdir(parents=True, exist_ok=True)
    write_json(path, {**marker, "complete": False})


def _shown(results: Iterator[Any], total: int, doing: str, progress: bool) -> Iterator[Any]:
    return with_progress(results, total, doing) if progress else results


def _in_order(keys: Sequence[str], seen: Iterator[work.Seen]) -> list[work.Seen]:
    by_key = {found.key: found for found in seen}
    return [by_key[key] for key in keys]


def _usable(seen: Sequence[work.Seen]) -> tuple[list[work.Seen], list[DatasetError]]:
    """Returns the items that can be painted, one per image, and the errors of all others."""
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
            counts.setdefault(label, ClassCount(semantic=True)).add(*entry)
    return counts


def _jobs(
    seen: Sequence[work.Seen], output: Path, common: work.Work, categories: Sequence[Category]
) -> dict[str, work.Job]:
    """Returns the jobs; results go into one folder per split if the source has a training split and another split."""
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

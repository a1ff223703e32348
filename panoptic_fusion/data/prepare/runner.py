"""Converting one split: parallel over the cores, resumable after a kill at any moment, nothing done twice.

What is finished is in the journal, `<json>.journal`: a line of json for each image, appended by the worker after the
image's PNG is in place. The final json is written from the journal when all images are in it, then the journal is
removed. PNGs and jsons are written under another name and renamed, so that none is ever half there. A lock on the
journal keeps a second run of the same split out, until the workers of a killed run are gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ...errors import UserError
from ...files import write_json
from .segments import write_png

LOCK_PATIENCE_S = 10.0


@dataclass(frozen=True)
class Source:
    """One annotation to convert: id and file_name of its image in the json, its own path, the PNG's name."""

    image_id: str
    image_name: str
    path: str
    png_name: str


@dataclass(frozen=True)
class Converted:
    """What the conversion of one annotation gives: `pixels` (H, W, 3) uint8 and `segments` as of `describe_segments`;
    `notes` counts what the user should know of (text -> how often)."""

    pixels: np.ndarray
    segments: list[dict[str, Any]]
    notes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class SplitPlan:
    """All that one split needs: `convert` is a function of a module (it goes to other processes) or a partial of one;
    `info`, if not None, becomes the json's entry `info`."""

    panoptic_json: Path
    panoptic_root: Path
    categories: list[dict[str, Any]]
    sources: Sequence[Source]
    convert: Callable[[Source], Converted]
    info: dict[str, Any] | None = None

    @property
    def journal(self) -> Path:
        return self.panoptic_json.with_name(self.panoptic_json.name + ".journal")


@dataclass(frozen=True)
class SplitResult:
    """`converted`: images converted by this run; `kept`: finished by earlier runs; `notes`: of all (text -> count)."""

    converted: int
    kept: int
    notes: dict[str, int]


def default_workers() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_split(plan: SplitPlan, workers: int | None = None, force: bool = False, progress: bool = True) -> SplitResult:
    """Converts what is not converted yet and writes the split's json.

    Args:
        plan: the split.
        workers: processes; default: one a core.
        force: forget what earlier runs have done.
        progress: show a bar with the time left.

    Raises:
        UserError: annotations could not be converted (the others are done and stay done), the folder holds a conversion
            to other categories, or another run is at work.
    """
    plan.panoptic_root.mkdir(parents=True, exist_ok=True)
    with _locked(plan.journal):
        if force:
            plan.panoptic_json.unlink(missing_ok=True)
            plan.journal.write_bytes(b"")
        before = _read_json(plan) if plan.panoptic_json.is_file() else None
        done = _usable(plan, _records(before) | _read_journal(plan))
        for leftover in plan.panoptic_root.glob(".*.tmp"):
            leftover.unlink()
        todo = [source for source in plan.sources if source.image_id not in done]
        errors = _convert_all(plan, todo, len(done), workers or default_workers(), progress)
        if errors:
            shown = "; ".join(errors[:5]) + (f"; and {len(errors) - 5} more" if len(errors) > 5 else "")
            raise UserError(f"{len(errors)} of {len(plan.sources)} annotations could not be converted: {shown}")
        if todo:
            done |= _read_journal(plan)
        content = _content(plan, done)
        if content != before:
            write_json(plan.panoptic_json, content, sort_keys=True)
        plan.journal.unlink()
    notes: dict[str, int] = {}
    for record in done.values():
        for text, count in record.get("notes", {}).items():
            notes[text] = notes.get(text, 0) + count
    return SplitResult(len(todo), len(plan.sources) - len(todo), notes)


# -- the work --------------------------------------------------------------------------------------------------------


def _convert_all(plan: SplitPlan, todo: list[Source], before: int, workers: int, progress: bool) -> list[str]:
    """Converts all of `todo`; returns the errors, one text for each annotation that failed."""
    task = partial(_convert_one, plan.convert, str(plan.panoptic_root), str(plan.journal))
    bar = partial(tqdm, desc=plan.panoptic_root.name, unit="image", total=before + len(todo), initial=before)
    if workers <= 1 or len(todo) <= 1:
        return [e for e in map(task, bar(todo, disable=not progress)) if e]
    errors = []
    # fork is quick and leaves the workers holding the journal's lock; elsewhere than on Linux it is not safe.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    executor = ProcessPoolExecutor(min(workers, len(todo)), context, _start_worker, (os.getpid(),))
    try:
        futures = [executor.submit(task, source) for source in todo]
        for future in bar(as_completed(futures), disable=not progress):
            errors += filter(None, [future.result()])
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process was killed, maybe for lack of memory: run the same command again, it goes on where it "
            f"stopped (now: {workers} workers, see --workers)"
        ) from error
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
    return errors


def _convert_one(
    convert: Callable[[Source], Converted], panoptic_root: str, journal: str, source: Source
) -> str | None:
    """Converts one annotation, its PNG first, then its line in the journal; returns the error, if there is one."""
    try:
        converted = convert(source)
    except (ValueError, FileNotFoundError) as error:
        return str(error)
    write_png(converted.pixels, Path(panoptic_root, source.png_name))
    height, width = converted.pixels.shape[:2]
    names = {"image_id": source.image_id, "file_name": source.png_name}
    record = {
        "image": {"id": source.image_id, "file_name": source.image_name, "height": height, "width": width},
        "annotation": {**names, "segments_info": converted.segments},
        "notes": converted.notes,
    }
    # One write, which O_APPEND puts at the end as a whole. The line feed comes first, so that a line which a kill has
    # cut short does not spoil the next one.
    with open(journal, "ab", buffering=0) as file:
        file.write(b"\n" + json.dumps(record).encode())
    return None


def _start_worker(parent: int) -> None:
    """Lets a worker leave Ctrl-C to its parent, and end soon after a parent that was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


# -- what is finished ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _locked(journal: Path) -> Iterator[None]:
    """Holds the lock on the journal; waits a little for the workers of a killed run to end."""
    deadline = time.monotonic() + LOCK_PATIENCE_S
    while True:
        with open(journal, "ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise UserError(f"{journal}: another run is converting this split; wait until it ends") from None
                time.sleep(0.1)
                continue
            # The run that had the lock may have finished and removed the file meanwhile: then begin again.
            if journal.exists() and os.path.samestat(os.fstat(file.fileno()), journal.stat()):
                yield
                return


def _usable(plan: SplitPlan, records: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of the records, image id -> {image, annotation}, those that are of a source and whose PNG is there."""
    names = {source.image_id: source.png_name for source in plan.sources}
    pngs = set(os.listdir(plan.panoptic_root))
    return {
        image_id: record
        for image_id, record in records.items()
        if record["annotation"]["file_name"] == names.get(image_id) and names[image_id] in pngs
    }


def _read_journal(plan: SplitPlan) -> dict[str, dict[str, Any]]:
    records = {}
    for line in plan.journal.read_bytes().split(b"\n"):
        with contextlib.suppress(json.JSONDecodeError, UnicodeDecodeError):  # empty, or cut short by a kill
            record = json.loads(line)
            records[record["annotation"]["image_id"]] = record
    return records


def _read_json(plan: SplitPlan) -> dict[str, Any]:
    """The json that is there; raises UserError if it is none, or of other categories."""
    try:
        content = json.loads(plan.panoptic_json.read_bytes())
        found = {c["id"]: (c["name"], c["isthing"]) for c in content["categories"]}
        _records(content)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{plan.panoptic_json} is not a COCO panoptic json; --force replaces it") from error
    if found != {c["id"]: (c["name"], c["isthing"]) for c in plan.categories}:
        raise UserError(f"{plan.panoptic_json} has other categories than this conversion makes; --force replaces it")
    return content


def _records(content: dict[str, Any] | None) -> dict[str, dict[str, Any]]:
    """The records of a panoptic json, as the journal has them."""
    if content is None:
        return {}
    images = {image["id"]: image for image in content["images"]}
    return {a["image_id"]: {"image": images[a["image_id"]], "annotation": a} for a in content["annotations"]}


def _content(plan: SplitPlan, done: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The split's json, in the order of the sources."""
    images = [{**done[source.image_id]["image"], "file_name": source.image_name} for source in plan.sources]
    annotations = [done[source.image_id]["annotation"] for source in plan.sources]
    content = {"images": images, "annotations": annotations, "categories": plan.categories}
    return content if plan.info is None else {**content, "info": plan.info}

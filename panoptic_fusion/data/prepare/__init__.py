"""Converts official downloads of the built-in datasets to COCO panoptic JSON and PNGs, at their registered paths."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ...errors import UserError
from ..datasets import BUILTIN
from . import camvid, cityscapes, coco, idd, unlabeled, vistas
from .runner import SplitPlan, SplitResult, run_split
from .summary import SplitSummary, summarize


@dataclass(frozen=True)
class Converter:
    """Functions of (root, split): the official annotation folder, and the conversion plan (None: nothing to do)."""

    annotation_folder: Callable[[Path, str], Path]
    plan_split: Callable[[Path, str], SplitPlan | None]


# Datasets that require conversion.
_CONVERTERS = {
    "cityscapes": Converter(cityscapes.annotation_folder, cityscapes.plan_split),
    "vistas": Converter(vistas.annotation_folder, vistas.plan_split),
    "vistas_v2": Converter(
        partial(vistas.annotation_folder, version="v2.0"), partial(vistas.plan_split, version="v2.0")
    ),
    "idd": Converter(idd.annotation_folder, idd.plan_split),
    "camvid": Converter(camvid.annotation_folder, camvid.plan_split),
}


# Splits without public annotations: images alone. (Cityscapes has annotation files, all void.)
_UNLABELED = {("coco", "test-dev"), ("vistas", "test"), ("vistas_v2", "test"), ("idd", "test")}


def prepare(
    key: str,
    root: str | os.PathLike,
    splits: Sequence[str] | None = None,
    workers: int | None = None,
    force: bool = False,
    progress: bool = True,
) -> list[SplitSummary]:
    """Prepares a dataset and returns a summary of each split. Work finished by an earlier run is not repeated.

    Args:
        key: coco, cityscapes, vistas, vistas_v2, idd, or camvid.
        root: folder of the dataset.
        splits: default: train and val, if present.
        workers: number of processes; default: one per core.
        force: whether to redo everything. Files that belong to the official download are never removed.
        progress: whether to show a bar with the remaining time.

    Raises:
        FileNotFoundError: if a requested split, or every split, is missing.
        UserError: if files of the dataset are invalid. The message names them.
    """
    dataset, root = BUILTIN[key], Path(os.path.expanduser(root))

    def folder(root: Path, split: str) -> Path:
        if (key, split) in _UNLABELED:
            return _unlabeled_source(key, root, split)
        return (_CONVERTERS.get(key) or coco).annotation_folder(root, split)

    if splits is None:
        splits = [split for split in ("train", "val") if folder(root, split).exists()]
        missing = "" if splits else f"{folder(root, 'train')} and {folder(root, 'val')}"
    else:
        for split in splits:
            if split not in dataset.names:
                raise UserError(f"{key} has no split {split!r}; available: {', '.join(dataset.names)}")
        missing = " and ".join(str(folder(root, split)) for split in splits if not folder(root, split).exists())
    if missing:
        layout = dataset.layout.format(split="(train|val)")
        raise FileNotFoundError(f"{missing} not found; expected in {root}: {layout} (docs/datasets.md has the tree)")
    return [_prepare_split(key, root, split, workers, force, progress) for split in splits]


def _prepare_split(key: str, root: Path, split: str, workers: int | None, force: bool, progress: bool) -> SplitSummary:
    dataset = BUILTIN[key]
    files = dataset.files(str(root), split)
    result, notes = SplitResult(0, 0, {}), []
    if (key, split) in _UNLABELED:
        result = run_split(_plan_unlabeled(key, root, split), workers, force, progress)
        notes.append("no public annotations: all is void, metrics are NaN; TEST.WRITE_PREDICTIONS for the test server")
    elif key == "coco":
        unpacked = coco.unpack_pngs(root, split, progress)
        notes.append(f"COCO comes in the panoptic format, nothing to convert; {unpacked} PNGs unpacked now")
    else:
        plan = _CONVERTERS[key].plan_split(root, split)
        if plan is None:
            notes.append("the dataset's own panoptic annotations exist, nothing to convert")
        elif not plan.sources:
            raise FileNotFoundError(f"no annotation found for {plan.panoptic_json}; docs/datasets.md has the tree")
        else:
            result = run_split(plan, workers, force, progress)
    notes += [f"{text} ({count} times)" for text, count in sorted(result.notes.items())]
    json_and_pngs = Path(files.panoptic_json), Path(files.panoptic_root)
    return summarize(dataset.names[split], *json_and_pngs, result.converted, result.kept, notes)


def _unlabeled_source(key: str, root: Path, split: str) -> Path:
    """Returns what lists the images of a split without annotations: COCO's image_info JSON, else their folder."""
    if key == "coco":
        return root / "annotations" / f"image_info_{split}2017.json"
    return Path(BUILTIN[key].files(str(root), split).images)


def _plan_unlabeled(key: str, root: Path, split: str) -> SplitPlan:
    files = BUILTIN[key].files(str(root), split)
    if key == "vistas_v2":  # its config lists its classes
        categories = vistas.read_labels(vistas.config_file(root, split, "v2.0")).categories
    else:
        categories = BUILTIN[key].categories()
    source = _unlabeled_source(key, root, split)
    if key == "coco":
        return unlabeled.plan_listed_images(files, categories, source)
    plan = unlabeled.plan_images(files, categories, source.rglob("*"))
    if not plan.sources:
        raise FileNotFoundError(f"no image found below {source}; docs/datasets.md has the tree")
    return plan

"""From the official download of a known data set to COCO panoptic: json and PNGs, in the place registered for them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ...errors import UserError
from ..datasets import BUILTIN
from . import cityscapes, coco, idd, vistas
from .runner import SplitPlan, SplitResult, run_split
from .summary import SplitSummary, summarize


@dataclass(frozen=True)
class Converter:
    """Functions of (root, split): the folder of the official annotations, and what to convert (None: nothing)."""

    annotation_folder: Callable[[Path, str], Path]
    plan_split: Callable[[Path, str], SplitPlan | None]


# The datasets with something to convert.
_CONVERTERS = {
    "cityscapes": Converter(cityscapes.annotation_folder, cityscapes.plan_split),
    "vistas": Converter(vistas.annotation_folder, vistas.plan_split),
    "vistas_v2": Converter(
        partial(vistas.annotation_folder, version="v2.0"), partial(vistas.plan_split, version="v2.0")
    ),
    "idd": Converter(idd.annotation_folder, idd.plan_split),
}


def prepare(
    key: str,
    root: str | os.PathLike,
    splits: Sequence[str] | None = None,
    workers: int | None = None,
    force: bool = False,
    progress: bool = True,
) -> list[SplitSummary]:
    """Prepares a data set and says what is in it. What an earlier run has finished is not done again.

    Args:
        key: coco, cityscapes, vistas, vistas_v2 or idd.
        root: the data set's folder.
        splits: default: those of train and val that are there.
        workers: processes; default: one a core.
        force: do all again. What comes with the data set itself is never removed.
        progress: show a bar with the time left.

    Raises:
        FileNotFoundError: an asked split, or every split, is missing.
        UserError: files of the data set are at fault; the message names them.
    """
    dataset, root = BUILTIN[key], Path(os.path.expanduser(root))
    folder = (_CONVERTERS.get(key) or coco).annotation_folder
    if splits is None:
        splits = [split for split in ("train", "val") if folder(root, split).exists()]
        missing = "" if splits else f"{folder(root, 'train')} and {folder(root, 'val')}"
    else:
        for split in splits:
            if split not in dataset.names:
                raise UserError(f"{key} has no split {split!r}; there are: {', '.join(dataset.names)}")
        missing = " and ".join(str(folder(root, split)) for split in splits if not folder(root, split).exists())
    if missing:
        layout = dataset.layout.format(split="(train|val)")
        raise FileNotFoundError(f"{missing} not found; expected in {root}: {layout} (docs/datasets.md has the tree)")
    return [_prepare_split(key, root, split, workers, force, progress) for split in splits]


def _prepare_split(key: str, root: Path, split: str, workers: int | None, force: bool, progress: bool) -> SplitSummary:
    dataset = BUILTIN[key]
    files = dataset.files(str(root), split)
    result, notes = SplitResult(0, 0, {}), []
    if key == "coco":
        unpacked = coco.unpack_pngs(root, split, progress)
        notes.append(f"COCO comes in the panoptic format, nothing to convert; {unpacked} PNGs unpacked now")
    else:
        plan = _CONVERTERS[key].plan_split(root, split)
        if plan is None:
            notes.append("the data set's own panoptic annotations are there, nothing to convert")
        elif not plan.sources:
            raise FileNotFoundError(f"no annotation found for {plan.panoptic_json}; docs/datasets.md has the tree")
        else:
            result = run_split(plan, workers, force, progress)
    notes += [f"{text} ({count} times)" for text, count in sorted(result.notes.items())]
    json_and_pngs = Path(files.panoptic_json), Path(files.panoptic_root)
    return summarize(dataset.names[split], *json_and_pngs, result.converted, result.kept, notes)

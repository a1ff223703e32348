"""Formats that can be imported, in the order in which they are tried."""

from __future__ import annotations

from ...errors import UserError
from ..dataset_errors import DatasetError
from . import (
    ade20k,
    binary_masks,
    coco,
    coco_panoptic,
    cvat,
    darwin,
    instance_png,
    isat,
    label_studio,
    labelbox,
    labelme,
    labelme_web,
    sa1b,
    scalabel,
    semantic_png,
    superannotate,
    supervisely,
    via,
    voc,
    yolo,
)
from .shapes import Dataset, describe_error
from .tree import Tree, forget_files

READERS = (
    coco_panoptic,
    coco,
    labelme,
    isat,
    cvat,
    label_studio,
    supervisely,
    superannotate,
    darwin,
    via,
    labelbox,
    scalabel,
    sa1b,
    yolo,
    voc,
    labelme_web,
    ade20k,
    instance_png,
    binary_masks,
    semantic_png,
)
FORMATS = tuple(reader.NAME for reader in READERS)


class UnknownFormat(UserError):
    """Error raised if no file in a folder has a known format."""


def open_dataset(tree: Tree, format: str | None = None) -> Dataset:
    """Opens a folder with the reader of `format`, or with the first reader that recognizes the folder.

    Raises:
        UserError: the format is unknown, or no reader recognizes the folder.
    """
    if format is not None and format not in FORMATS:
        raise UserError(f"--format is {format!r}; available: {', '.join(FORMATS)}")
    found = [r for r in READERS if format == r.NAME] if format else [r for r in READERS if r.recognize(tree)]
    if not found:
        packed = [file for file in tree.files if file.lower().endswith((".zip", ".tar", ".gz", ".tgz"))]
        if packed and len(packed) == len(tree.files) or (tree.single or "").lower().endswith(".zip"):
            raise UnknownFormat(f"{tree.path(tree.single or packed[0])}: archives are not read. Unpack it first.")
        what = f"its {len(tree.files)} files are of no known format" if tree.files else "it has no files"
        raise UnknownFormat(
            f"{tree.root}: {what}. Supported: {', '.join(FORMATS)} (docs/importing.md shows their files). Pass "
            "--format if it is one of these."
        )
    try:
        dataset = found[0].open_dataset(tree)
    except DatasetError:
        raise
    except Exception as error:  # a file that no reader expects
        name, text = found[0].NAME, describe_error(error)
        raise UserError(f"{tree.root}: the {name} files cannot be read: {text}. Export them again.") from error
    forget_files()
    if len(found) > 1:
        others = ", ".join(reader.NAME for reader in found[1:])
        dataset.notes[f"the folder also looks like: {others} (--format chooses)"] += 1
    return dataset

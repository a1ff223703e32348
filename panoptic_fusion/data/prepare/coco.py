"""Prepares COCO: needs no conversion, but unpacks the PNGs, which come as a zip inside the annotations zip."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

from tqdm import tqdm

from ...errors import UserError
from ...files import remove_partial_files, write_atomically
from ..datasets.coco import coco_files


def annotation_folder(root: Path, split: str) -> Path:
    """Returns the path of the official annotations of a split: its JSON."""
    return Path(coco_files(str(root), split).panoptic_json)


def unpack_pngs(root: Path, split: str, progress: bool = True) -> int:
    """Unpacks annotations/panoptic_{split}2017.zip to panoptic_{split}2017; returns the number of PNGs it added.

    Does nothing if the zip does not exist. Raises UserError if it is damaged.
    """
    target = Path(coco_files(str(root), split).panoptic_root)
    archive = root / "annotations" / f"{target.name}.zip"
    if not archive.is_file():
        return 0
    target.mkdir(exist_ok=True)
    remove_partial_files(target)
    present = set(os.listdir(target))
    try:
        with zipfile.ZipFile(archive) as file:
            members = [m for m in file.infolist() if m.filename.endswith(".png") and "__MACOSX" not in m.filename]
            todo = [m for m in members if Path(m.filename).name not in present]
            for member in tqdm(todo, desc=archive.name, unit="image", disable=not progress or not todo):
                content = file.read(member)
                write_atomically(target / Path(member.filename).name, lambda png, content=content: png.write(content))
    except zipfile.BadZipFile as error:
        raise UserError(f"{archive} is damaged ({error}); download it again") from error
    return len(todo)

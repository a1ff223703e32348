"""Checks that the files of a folder are complete, whatever happened to their writer."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image

from .processes import AttackFailed

# Grow line by line; their readers skip a line that a kill has cut off.
GROWING = ("log.txt", "ablation.log", "events.out", ".err", ".log", "metrics.json", ".jsonl")


def _image(path: Path) -> None:
    with Image.open(path) as image:
        image.load()


def _script(path: Path) -> None:
    if "static" in path.parts:  # the program of the page, a copy
        return
    text = path.read_text(encoding="ascii")
    json.loads(f"[{text.removeprefix('panopticReport(').removesuffix(');' + chr(10))}]")


def _archive(path: Path) -> None:
    if broken := zipfile.ZipFile(path).testzip():
        raise ValueError(f"{broken} is damaged")


def _ends_with(end: str) -> Callable[[Path], None]:
    def check(path: Path) -> None:
        if not path.read_text(encoding="utf-8").rstrip().endswith(end):
            raise ValueError(f"does not end with {end}")

    return check


CHECKS: dict[str, Callable[[Path], object]] = {
    ".json": lambda path: json.loads(path.read_text()),
    ".png": _image,
    ".jpg": _image,
    ".pth": lambda path: torch.load(path, map_location="cpu", weights_only=True),
    ".npz": _archive,
    ".npy": np.load,
    ".yaml": lambda path: yaml.safe_load(path.read_text()),
    ".js": _script,
    ".html": _ends_with("</html>"),
}


def check_complete(folder: Path) -> int:
    """Checks all files with a final name; returns how many.

    Raises:
        AttackFailed: a file cannot be read.
    """
    count = 0
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name.startswith(".") or any(part in path.name for part in GROWING):
            continue
        check = CHECKS.get(path.suffix)
        if check is None:
            continue
        try:
            check(path)
        except Exception as error:
            raise AttackFailed(f"{path} is incomplete: {type(error).__name__}: {str(error)[:200]}") from None
        count += 1
    return count


def leftovers(*folders: Path) -> list[str]:
    """Returns what killed runs left in folders: partially written files, temporary files and folders."""
    found = [path for path in folders[0].rglob(".*.partial")]
    for folder in folders[1:]:  # folders for temporary files
        found += list(folder.iterdir()) if folder.is_dir() else []
    return sorted(map(str, found))


def names_of(folder: Path) -> set[str]:
    """Returns the names of the files that a command wrote, without logs and locks."""
    found = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(folder)) for path in found if not any(part in path.name for part in GROWING)}

"""Static part of the report: the page, its scripts and styles, and the libraries that they use.

The page is opened by double click, so its address is `file://`: it cannot fetch files, and a canvas cannot be read once
it has shown an image file. Therefore data and segment maps are scripts that call `panopticReport(key, payload)`. The
page adds each script when its content comes into view. None of the files that this module writes depends on the data.
"""

import os
import shutil
from pathlib import Path

from ...files import write_atomically

STATIC = Path(__file__).with_name("static")
FILES = "report_files"  # folder beside report.html; STATIC's files go into its folder "static"


def write_page(folder: str | os.PathLike) -> Path:
    """Writes report.html and its static files; replaces those of an earlier version.

    Args:
        folder: path to the report's folder, which is created if it does not exist. The data in `folder/report_files`
            do not change.

    Returns:
        Path to report.html. Without data the page shows how to create them.

    Raises:
        DiskError: if the disk is full, over quota or read-only.
    """
    folder = Path(folder)
    target = folder / FILES / "static"
    shutil.rmtree(target, ignore_errors=True)
    for source in sorted(STATIC.rglob("*")):
        if source.is_file() and source.name != "report.html":
            _copy(source, target / source.relative_to(STATIC))
    return _copy(STATIC / "report.html", folder / "report.html")


def _copy(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, lambda file: file.write(source.read_bytes()))
    return target

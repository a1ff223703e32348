"""Accesses a folder of annotations: its files, their parsed content, images by name, and splits by folder name."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaml

from ..dataset_errors import DatasetError
from ..image_header import IMAGE_SUFFIXES, check_regular_file

SPLITS = {
    **dict.fromkeys(("train", "training", "trn", "trainset"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "valset"), "val"),
    **dict.fromkeys(("test", "testing", "tst", "testset"), "test"),
}
_MAP_FOLDER = re.compile(
    r"masks?|annotations?|labels?|instances?|semantics?|panoptic\w*|segmentation(?:class|object)?|\w*annot|semantic_\w+"
    r"|instance_\w+|stuffthingmaps"
)
_SPLIT_TOKEN = re.compile(r"(?<![a-z])(?:" + "|".join(sorted(SPLITS, key=len, reverse=True)) + r")(?![a-z])")


class Tree:
    """Files below a folder, listed once.

    Attributes:
        root: absolute path of the folder.
        files: sorted paths relative to `root`, with / as separator.
        single: path to a single annotation file, if the user passed one. Images are then searched next to it.
    """

    def __init__(self, path: str | os.PathLike, leave_out: str | os.PathLike | None = None) -> None:
        path = Path(os.path.expanduser(path)).absolute()
        self.single = path.name if path.is_file() else None
        self.root = path.parent if self.single else path
        left_out = os.path.abspath(leave_out) if leave_out is not None else None
        self.files: list[str] = []
        seen: set[str] = set()
        for folder, folders, names in os.walk(self.root, followlinks=True):
            real = os.path.realpath(folder)
            if real in seen or (folder != str(self.root) and ".import" in folders):  # a link back, or an earlier import
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(
                f for f in folders if not f.startswith((".", "__MACOSX")) and os.path.join(folder, f) != left_out
            )
            base = os.path.relpath(folder, self.root)
            self.files += [n if base == "." else f"{base}/{n}" for n in sorted(names) if not n.startswith(".")]

    def path(self, file: str) -> Path:
        """Returns the path of a file, given relative to the root."""
        return self.root / file

    def having(self, *suffixes: str) -> list[str]:
        """Returns the annotation files with one of these suffixes, ignoring case."""
        if self.single:
            return [self.single] if self.single.lower().endswith(suffixes) else []
        return [file for file in self.files if file.lower().endswith(suffixes)]

    def images(self) -> list[str]:
        """Returns the files with an image suffix."""
        return [file for file in self.files if os.path.splitext(file)[1].lower() in IMAGE_SUFFIXES]

    def samples(self, suffix: str, count: int = 3) -> dict[str, Any]:
        """Returns the parsed content (.json, or the root of .xml) of the first readable files in each folder."""
        read = read_json if suffix == ".json" else read_xml
        found: dict[str, Any] = {}
        per_folder: dict[str, int] = defaultdict(int)
        for file in self.having(suffix):
            folder = os.path.dirname(file)
            if per_folder[folder] >= count:
                continue
            with contextlib.suppress(DatasetError):
                found[file] = read(str(self.path(file)))
            per_folder[folder] += 1
        return found


class ImageIndex:
    """Index that finds images by the names in annotation files, which often contain folders of other machines."""

    def __init__(self, tree: Tree, extra_root: str | os.PathLike | None = None) -> None:
        self.roots = [str(tree.root)]
        self._inside = {os.path.join(tree.root, file): file for file in tree.images()}  # path -> path below its root
        if extra_root is not None:
            extra = Tree(extra_root)
            self.roots.insert(0, str(extra.root))
            self._inside |= {os.path.join(extra.root, file): file for file in extra.images()}
        self._by_name: dict[str, list[str]] = defaultdict(list)
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for file in sorted(self._inside):
            name = os.path.basename(file).lower()
            self._by_name[name].append(file)
            self._by_stem[os.path.splitext(name)[0]].append(file)

    def find(self, names: list[str], near: str, split: str = "", but: Collection[str] = ()) -> str | None:
        """Returns the path of the first of `names` that is an image, or None.

        A name is tried below the folder `near` and the roots, then by its last parts anywhere, then without its suffix.
        If several images have the name, the image whose path shares most with the name and `near` is used. Images in a
        folder of a different split than `split`, maps (PNGs in a folder of masks) and the paths `but` are excluded.
        """
        for name in names:
            name = name.replace("\\", "/")
            for root in (near, *self.roots):
                path = os.path.normpath(os.path.join(root, name))
                if os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES and path not in but and os.path.isfile(path):
                    return path

        def fits(path: str) -> bool:
            folder = os.path.dirname(self._inside[path])
            other = split_of(folder)
            return path not in but and not _is_map(self._inside[path]) and (not split or other in ("", split))

        for name in names:
            last = name.replace("\\", "/").rsplit("/", 1)[-1].lower()
            candidates = (
                self._by_name.get(last) or self._by_stem.get(os.path.splitext(last)[0]) or self._by_stem.get(last)
            )
            fitting = list(filter(fits, candidates or ()))
            if fitting:
                return max(fitting, key=lambda path: _closeness(path, name, near))
        return None


def _is_map(file: str) -> bool:
    """Returns whether a path below the root is a PNG in a folder of masks."""
    folder = os.path.basename(os.path.dirname(file)).lower()
    return file.lower().endswith((".png", ".bmp")) and _MAP_FOLDER.fullmatch(folder) is not None


def _closeness(path: str, name: str, near: str) -> tuple[int, int, int, str]:
    """Scores how well a path matches a name: same last folders, no mask folder in the path, and close to `near`."""
    wanted, parts = name.replace("\\", "/").lower().split("/")[:-1], path.lower().split(os.sep)
    equal = 0
    while equal < len(wanted) and wanted[-1 - equal] == parts[-2 - equal]:
        equal += 1
    common = len(os.path.commonpath([path, near])) if os.path.isabs(near) else 0
    maps = sum(
        bool(re.search(r"mask|annot|label|segm|panoptic|semantic|instance|gt|expected", p)) for p in parts[-3:-1]
    )
    return equal, -maps, common, path


def split_of(*names: str) -> str:
    """Returns "train", "val" or "test" from the last path component that names a split, or "" if none does."""
    for name in names:
        for part in reversed(name.replace("\\", "/").lower().split("/")):
            found = _SPLIT_TOKEN.findall(os.path.splitext(part)[0] if "." in part else part)
            if found:
                return SPLITS[found[-1]]
    return ""


def read_json(path: str) -> Any:
    """Parses a JSON file, with a cache of the last files; raises DatasetError with the position of the error."""
    try:
        check_regular_file(path, "missing file")
        state = os.stat(path)
        return _parse_json(path, state.st_mtime_ns, state.st_size)
    except FileNotFoundError:
        raise DatasetError("the file is missing", path, "missing file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"not a readable JSON ({error}). Export it again.", path, "corrupt json") from None


@lru_cache(maxsize=4)
def _parse_json(path: str, _modified: int, _size: int) -> Any:
    with open(path, encoding="utf-8-sig") as file:
        return json.load(file)


def forget_files() -> None:
    """Frees the memory of the files that `read_json` caches."""
    _parse_json.cache_clear()


def read_xml(path: str) -> ElementTree.Element:
    """Parses an XML file; raises DatasetError with the position of the error."""
    try:
        check_regular_file(path, "missing file")
        return ElementTree.parse(path).getroot()
    except FileNotFoundError:
        raise DatasetError("the file is missing", path, "missing file") from None
    except (OSError, ValueError, LookupError, ElementTree.ParseError, RecursionError) as error:
        raise DatasetError(f"not a readable xml ({error}). Export it again.", path, "corrupt xml") from None


def read_text(path: str) -> str:
    """Reads a text file, also from Windows tools; raises DatasetError if it cannot be read."""
    try:
        check_regular_file(path, "missing file")
        data = Path(path).read_bytes()
    except OSError as error:
        raise DatasetError(f"cannot be read ({error.strerror})", path, "missing file") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DatasetError("not a text in UTF-8. Save it as UTF-8.", path, "corrupt text") from None


def read_yaml(path: str) -> Any:
    """Parses a YAML file; raises DatasetError if it is invalid or has tags that would create objects."""
    try:
        return yaml.safe_load(read_text(path))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise DatasetError(f"not a readable yaml ({error})", path, "corrupt yaml") from None


def hex_color(text: Any) -> tuple[int, int, int] | None:
    """Returns the color of "#rrggbb", or None for other values."""
    match = re.fullmatch(r"#?([0-9a-fA-F]{6})(?:[0-9a-fA-F]{2})?", text) if isinstance(text, str) else None
    return tuple(bytes.fromhex(match[1])) if match else None

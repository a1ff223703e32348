"""Gives every command names and files that break programs: quotes, emoji, pipes, devices, loops of links."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from .attempts import Attempt, Place
from .complete_files import check_complete
from .forks import call
from .material import Material
from .processes import AttackFailed, run

NAME = "a b#c%d 'q' жук 汉字 \U0001f600"  # configs refuse line breaks in paths, with one line
NAMES = "Every command with spaces, `#`, `%`, quotes, Cyrillic, CJK and emoji in all paths"
FILES = "Pipes, devices, folders and loops of links in place of an input file"
READ_ONLY = "Every command with a read-only output folder"
KINDS: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "/dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "/dev/null": lambda path: path.symlink_to("/dev/null"),
    "folder": Path.mkdir,
    "loop": lambda path: path.symlink_to(path.name),
    "missing": lambda path: None,
    "empty": Path.touch,
}


def attempts(quick: bool) -> list[Attempt]:
    """Returns an attempt for each command and kind of name, and for each input and kind of file."""
    material = Material(Path("/material"))
    if quick:
        return [Attempt(FILES, "fuse --images: pipe", partial(_special_file, name="fuse", at=6, kind="pipe"))]
    commands, found = material.commands(Path("/out")), []
    for name, words in commands.items():
        for at, kind in itertools.product(_inputs(words), KINDS):
            found.append(Attempt(FILES, f"{name} {at}: {kind}", partial(_special_file, name=name, at=at, kind=kind)))
    found += [Attempt(READ_ONLY, name, partial(_read_only, name=name)) for name in commands]
    return [*found, *(Attempt(NAMES, name, partial(_names, name=name)) for name in commands)]


def _inputs(words: list) -> list[int]:
    """Returns the places of the words that are paths of inputs."""
    return [at for at, word in enumerate(words) if str(word).startswith("/material/")]


def _special_file(place: Place, name: str, at: int, kind: str) -> tuple[int, str]:
    """Replaces one input; the command must end soon, with one line, or with a result without it."""
    words = place.material.commands(place.folder / "out")[name]
    place.material.prepare_output(name, place.folder / "out")
    special = place.folder / f"special{Path(words[at]).suffix}"
    KINDS[kind](special)
    words[at] = special
    outcome = call(words, place.folder)
    if outcome.code == 2:
        outcome.one_line()
    elif outcome.code not in (0, 1) or "Traceback" in outcome.err:
        raise AttackFailed(f"exit code {outcome.code}: {outcome.end()}")
    return 1, ""


def _read_only(place: Place, name: str) -> tuple[int, str]:
    out = Path("/proc/soak")  # not writable, also for root
    outcome = call(place.material.commands(out)[name], place.folder)
    outcome.one_line()
    return 1, ""


def _names(place: Place, name: str) -> tuple[int, str]:
    """Copies the inputs to a folder with such a name, renames the images, and writes to such a folder."""
    material = hostile_copy(place.material, place.folder / NAME)
    out = place.folder / f"out {NAME}"
    material.prepare_output(name, out)
    outcome = run(material.commands(out)[name], place.folder)
    if outcome.code:
        raise AttackFailed(f"exit code {outcome.code}: {outcome.end()}")
    check_complete(out)
    return 1, ""


def hostile_copy(material: Material, root: Path) -> Material:
    """Copies the inputs; the images of the scenes get names as hostile as the folder's."""
    shutil.copytree(material.root, root, symlinks=True)
    copy = Material(root)
    for files in copy.splits.values():
        content = json.loads(Path(files["panoptic_json"]).read_text())
        for key, folder in (("images", "images"), ("annotations", "panoptic_root")):
            for entry in content[key]:
                new = f"{NAME}{entry['file_name']}"
                Path(files[folder], entry["file_name"]).rename(Path(files[folder], new))
                entry["file_name"] = new
        Path(files["panoptic_json"]).write_text(json.dumps(content))
    spec = copy.root / "ablation.yaml"
    copy.write_spec(spec)
    return copy

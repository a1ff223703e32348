"""Names and files: written whole or not at all, whenever the process is killed; names that are not taken yet."""

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO


def write_atomically(path: str | os.PathLike, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file such that `path` is either the old one or the whole new one.

    Args:
        path: the file; its folder must exist.
        write: called with a file object opened for writing bytes.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, content: Any, **options) -> None:
    """Writes a json file by `write_atomically`; `options` are those of json.dumps."""
    write_atomically(path, lambda file: file.write(json.dumps(content, **options).encode()))


def without_nan(content: Any) -> Any:
    """Mappings and numbers with None for NaN, which json does not have."""
    if isinstance(content, Mapping):
        return {key: without_nan(value) for key, value in content.items()}
    return None if isinstance(content, float) and math.isnan(content) else content


def markdown_cell(text: object) -> str:
    """Returns text for a cell of a markdown table, in which nothing of it is markup."""
    text = " ".join(str(text).split())
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>#|~" else c for c in text)


def unused_name(stem: str, used: set[str]) -> str:
    """`stem`, with a number if an earlier file of the same name took it; adds the result to `used`."""
    name, number = stem, 1
    while name in used:
        number += 1
        name = f"{stem}_{number}"
    used.add(name)
    return name


def safe_name(text: str) -> str:
    """Returns `text` as the name of one file or folder; different texts give different names.

    A name is kept if it is up to 100 letters, digits, spaces, "_", "-" and "." that neither begin with a dot nor begin
    or end with a space. Otherwise what does not fit becomes "_", and part of the SHA-1 of the text is appended. So no
    name leads out of its folder, and "a/b" and "a_b" stay apart.
    """
    if re.fullmatch(r"(?![. ])[\w .-]{1,100}(?<! )", text):
        return text
    kept = re.sub(r"[^\w.-]", "_", text)[:80].lstrip(".")
    return f"{kept}-{hashlib.sha1(text.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"

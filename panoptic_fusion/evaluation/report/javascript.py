"""Writes data as .js files: a page that is opened as file:// may load scripts, but no JSON."""

import json
import os
from typing import Any

from ...files import without_nan, write_atomically

# Characters that could end a script or start markup, as JSON escapes. All others beyond ASCII are escaped by json.
_ESCAPES = {ord(char): f"\\u{ord(char):04x}" for char in "<>&"}


def write_script(path: str | os.PathLike, key: str, content: Any) -> None:
    """Writes `panopticReport(key, content);`, atomically.

    Args:
        path: path to the .js file; its folder must exist.
        key: name of the data.
        content: nested mappings, lists, texts and numbers; NaN becomes null. Python numbers only.
    """
    values = (json.dumps(without_nan(value), separators=(",", ":"), allow_nan=False) for value in (key, content))
    text = f"panopticReport({','.join(values)});\n".translate(_ESCAPES)
    write_atomically(path, lambda file: file.write(text.encode("ascii")))

"""Markdown tables whose cells may contain any text, such as class and dataset names chosen by a user."""

import re
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from .errors import plain_line

# Characters that Markdown would read as markup. An underscore within a word or a lone ampersand is not markup.
_MARKUP = re.compile(r"[\\|`*~$\[\]]|(?<!\w)_|_(?!\w)")
_ENTITIES = ((re.compile(r"&(?=#?\w+;)"), "&amp;"), (re.compile("<"), "&lt;"), (re.compile(">"), "&gt;"))


def escape_markdown(text: str) -> str:
    """Escapes `text` so that Markdown shows it on one line, in a table or elsewhere, as `plain_line` returns it."""
    text = _MARKUP.sub(r"\\\g<0>", plain_line(text))
    for pattern, entity in _ENTITIES:
        text = pattern.sub(entity, text)
    return text


def markdown_table(
    rows: Sequence[Sequence[Any]],
    header: Sequence[str],
    *,
    float_format: str = ".1f",
    missing: str = "",
    align: Sequence[str] = (),
) -> str:
    """Returns a Markdown table. Columns of numbers are right-aligned, all others left-aligned.

    Args:
        rows: rows of cells. A cell is a number, None, or a text, which is escaped and never read as a number.
        header: one text per column, which is escaped.
        float_format: format of float cells.
        missing: text of None cells.
        align: "left" or "right" for each column; default: see above.
    """
    if not align:
        numbers = [all(not isinstance(row[column], str) for row in rows) for column in range(len(header))]
        align = ["right" if number else "left" for number in numbers]
    cells = [
        [
            missing if cell is None else escape_markdown(cell) if isinstance(cell, str)
            else format(cell, float_format) if isinstance(cell, float) else str(cell)
            for cell in row
        ]
        for row in rows
    ]  # fmt: skip
    return tabulate(
        cells,
        [escape_markdown(text) for text in header],
        tablefmt="pipe",
        disable_numparse=True,
        colalign=align if rows else None,
    )

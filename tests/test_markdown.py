"""Markdown tables with names of any text: read back by a small parser of GitHub's tables."""

import html
import random
import re

from panoptic_fusion.errors import counted, plain_line
from panoptic_fusion.evaluation.results import MEASURES, results_table
from panoptic_fusion.markdown import escape_markdown, markdown_table

NASTY = ["bus|tram", "a\nb", "`code`", "<b>bold</b>", "\\", "\\|", "x\\", "*star*", "_under_", "snake_case", "&lt;",
         "R&D", "[link](url)", "$1$", "1e3", "007", "nan", "-", "| --- |", "a\r\n|b", "ü ß 猫", "<!-- -->"]  # fmt: skip


def cells_of(line):
    """The texts that GitHub shows for one row: split at pipes without a backslash, escapes and entities resolved."""
    cells, cell, position = [], "", 0
    while position < len(line):
        if line[position] == "\\" and position + 1 < len(line):
            cell += line[position : position + 2]
            position += 2
        elif line[position] == "|":
            cells.append(cell)
            cell = ""
            position += 1
        else:
            cell += line[position]
            position += 1
    assert cells[0] == "" and cell == ""
    texts = [text.strip() for text in cells[1:]]
    for text in texts:  # no markup is left
        assert not re.search(r"(?<!\\)(?:\\\\)*[`*<>$\[\]]", text)
    texts = [re.sub(r"\\([\\|`*~$\[\]_])", r"\1", text) for text in texts]
    return [re.sub(r"&#?\w+;", lambda entity: html.unescape(entity[0]), text) for text in texts]


def test_rows_are_read_back_as_they_were():
    rng = random.Random(0)
    alphabet = "ab |\\`*_<>&;\n\t~$[]1.#-"
    names = NASTY + ["".join(rng.choices(alphabet, k=rng.randint(1, 12))) for _ in range(1000)]
    lines = markdown_table([[name, 1.25, None, 7] for name in names], ["cl|ass", "a", "b", "c"], missing="-").split(
        "\n"
    )
    assert len(lines) == len(names) + 2
    assert cells_of(lines[0]) == ["cl|ass", "a", "b", "c"]
    for name, line in zip(names, lines[2:], strict=True):
        assert cells_of(line) == [" ".join(name.split()), "1.2", "-", "7"]


def test_plain_names_stay_as_they_are():
    for name in ("traffic light", "R&D", "person_2", "wall-brick", "x.y"):
        assert escape_markdown(name) == name
    assert markdown_table([], ["class", "PQ"]).split("\n")[0].split() == ["|", "class", "|", "PQ", "|"]


def test_results_of_classes_with_such_names():
    keys = (*MEASURES, "PQ_small", "PQ_medium", "PQ_large")
    quality = {f"{key}{suffix}": 1.0 for key in keys for suffix in ("", "_th", "_st")}
    results = {"panoptic_seg": {**quality, "images": 2.0, **{f"PQ-{name}": 50.0 for name in NASTY}}}
    rows = [cells_of(line) for line in results_table(results).split("\n\n")[-1].split("\n")[2:]]
    assert rows == [[" ".join(name.split()), "50.0"] for name in NASTY]


def test_one_line_that_a_terminal_shows_as_it_is():
    assert plain_line(" a\nb\t c\r\n") == "a b c"
    assert plain_line("\x1b[31mred\0\x7f") == "\\x1b[31mred\\x00\\x7f"
    assert plain_line("\u202egnp.exe \udce9") == "\\u202egnp.exe \\udce9"
    for text in ("ü ß 猫", "شارع", "👨\u200d👩\u200d👧", "a|b", "\\", ""):
        assert plain_line(text) == text
    assert escape_markdown("\x1b[1m") == "\\\\x1b\\[1m"


def test_a_number_with_its_noun():
    assert [counted(number, "image") for number in (0, 1, 2, 1.0, 1000.0)] == [
        "0 images", "1 image", "2 images", "1 image", "1000 images",
    ]  # fmt: skip

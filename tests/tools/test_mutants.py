"""tools/mutants.py: which changes it makes to a few lines of source."""

import ast

import pytest
from mutants import find_mutants

SCALE = '''def scale(x, factor=2):
    """Scales by 2."""
    if x < 0 and factor:
        raise ValueError(f"negative: {x + 1}")
    return x * factor
'''


def changes(source: str) -> set[tuple[str, str]]:
    found = find_mutants(source.encode(), "file.py")
    for mutant in found:
        ast.parse(mutant.apply(source.encode()))
    return {(mutant.old, mutant.new) for mutant in found}


def test_every_change_of_a_function():
    assert changes(SCALE) == {
        ("2", "3"),
        ("x < 0 and factor", "(x < 0 or factor)"),
        ("x < 0", "(x <= 0)"),
        ("0", "1"),
        ('raise ValueError(f"negative: {x + 1}")', "pass"),
        ("return x * factor", "return None"),
        ("x * factor", "(x / factor)"),
    }


def test_the_changed_file_differs_only_there():
    (mutant,) = [mutant for mutant in find_mutants(SCALE.encode(), "file.py") if mutant.kind == "comparison"]
    assert mutant.apply(SCALE.encode()).decode() == SCALE.replace("x < 0", "(x <= 0)")


def test_lines_that_a_test_must_execute():
    source = SCALE + "LIMIT = 7\n"
    lines = {mutant.old: (mutant.lines, mutant.at_import) for mutant in find_mutants(source.encode(), "file.py")}
    assert lines["2"] == ((2, 5), False)  # a default: any line of the body
    assert lines["x < 0"] == ((3, 3), False)  # a condition: not the block under it
    assert lines["return x * factor"] == ((5, 5), False)
    assert lines["7"] == ((6, 6), True)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("y = x[a:b]", {("a:b", ":b"), ("a:b", "a:")}),
        ("y = x[1:]", {("1", "0")}),
        ("y = x.sum(dim=-1)", {("1", "0")}),
        ("y = 0.5", {("0.5", "1.0")}),
        ("y = 0.0", {("0.0", "1.0")}),
        ("y = True", {("True", "False")}),
        ("y = not x", {("not x", "(x)")}),
        ("y = -x", {("-x", "(x)")}),
        ("y = a if x else b", {("x", "(not x)")}),
        ("y += 3", {("y += 3", "y -= 3"), ("y += 3", "pass"), ("3", "4")}),
        ("x[i] = y", {("x[i] = y", "pass")}),
        ("x.append(y)", {("x.append(y)", "pass")}),
        ("while x:\n    break", {("x", "(not x)"), ("break", "pass")}),
        ("ö = 'ä' if 'ß' in x else y + z", {("'ß' in x", "('ß' not in x)"), ("y + z", "(y - z)")}),  # bytes
    ],
)
def test_other_changes(source, expected):
    assert changes(source) == expected


@pytest.mark.parametrize(
    "source",
    [
        "x: int = y",
        "def f(x: Literal[1]) -> tuple[2]:\n    pass",
        "@cache(3)\ndef f():\n    pass",
        "from a import b",
        "logger.info(1 + 2)",
        "y = f'{x + 1}'",
        "y = folder / 'name'",
        "def __repr__(self):\n    return 1",
        "if TYPE_CHECKING:\n    x = 1",
    ],
)
def test_what_is_not_changed(source):
    assert changes(source) == set()

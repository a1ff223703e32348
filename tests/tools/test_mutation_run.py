"""tools/mutation_run.py on a repository of one file: its counts are known, and it continues where it stopped."""

import subprocess
import sys

import pytest
from tiny_training import ROOT

# 6 mutants. `<=` changes nothing, a test notices both returns of at_least, and no test executes unused.
SOURCE = """def at_least(x, low):
    if x < low:
        return low
    return x


def unused(x):
    return x + 1
"""
TEST = """from tiny.numbers import at_least, unused


def test_at_least():
    assert [at_least(x, 2) for x in (1, 2, 3)] == [2, 2, 3]
"""


@pytest.fixture
def repository(tmp_path):
    root = tmp_path / "repository"
    for name, text in (("tiny/__init__.py", ""), ("tiny/numbers.py", SOURCE), ("tests/test_numbers.py", TEST)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
    subprocess.run(["git", "init", "--quiet", root], check=True)
    return root


def run(root, env, *options):
    """Returns (table row of all mutants, lines of those that were not noticed)."""
    command = [sys.executable, ROOT / "tools" / "mutation_run.py", "--output", root.parent / "output", "--root", root]
    command += ["--paths", "tiny", "--tests", "tests", "--preload", *options]
    env = {**env, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # the plugins take most of the time
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = [line for line in done.stdout.splitlines() if line.startswith("| all")]
    left = [line for line in done.stdout.splitlines() if line.startswith("tiny/numbers.py:")]
    return [int(cell) for cell in row.split("|")[2:-1]], left


def test_counts_resume_and_retry(repository, child_env):
    results = repository.parent / "output" / "results.jsonl"
    counts, left = run(repository, child_env)
    assert counts == [6, 2, 4]  # mutants, noticed, survived
    assert left == [
        "tiny/numbers.py:2 x < low -> (x <= low) (1 tests)",
        "tiny/numbers.py:8 return x + 1 -> return None (1 tests)",
        "tiny/numbers.py:8 x + 1 -> (x - 1) (1 tests)",
        "tiny/numbers.py:8 1 -> 0 (1 tests)",
    ]
    assert (repository.parent / "output" / "copy" / "tiny" / "numbers.py").read_text() == SOURCE

    lines = results.read_text().splitlines(keepends=True)
    results.write_text("".join(lines[:4]))  # as if it had been stopped after 4 of 6
    assert run(repository, child_env) == (counts, left)
    assert results.read_text().splitlines(keepends=True)[:4] == lines[:4]

    (repository / "tests" / "test_numbers.py").write_text(TEST + "\n\ndef test_unused():\n    assert unused(1) == 2\n")
    counts, left = run(repository, child_env, "--retry")
    assert counts == [6, 5, 1] and len(left) == 1

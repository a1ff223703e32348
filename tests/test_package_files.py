"""The repository holds all files of the package: none is left out by .gitignore."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from panoptic_fusion.errors import INSTALL_DETECTRON2

ROOT = Path(__file__).parents[1]
REQUIREMENTS = ROOT / "requirements-detectron2.txt"


@pytest.mark.skipif(not (ROOT / ".git").exists() or shutil.which("git") is None, reason="no clone")
def test_git_ignores_no_file_of_the_project():
    # An unanchored "datasets/" once kept panoptic_fusion/data/datasets out of every clone.
    files = [
        str(p.relative_to(ROOT))
        for folder in ("panoptic_fusion", "configs", "tests", "tools", "benchmarks", "docs")
        for p in (ROOT / folder).rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    ]
    command = ["git", "-C", str(ROOT), "check-ignore", "--stdin"]
    ignored = subprocess.run(command, input="\n".join(files), capture_output=True, text=True).stdout.split()
    assert ignored == []


@pytest.mark.skipif(not (ROOT / ".git").exists() or shutil.which("git") is None, reason="no clone")
def test_nothing_that_git_ignores_is_committed():
    """The website that `make docs` builds once was: 24 MB."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--ignored", "--exclude-standard"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == []


def test_detectron2_is_pinned_to_the_same_wheel_everywhere():
    (pinned,) = re.findall(r"^sal-detectron2==\S+ --hash=sha256:[0-9a-f]{64}$", REQUIREMENTS.read_text(), re.MULTILINE)
    assert f'echo "{pinned}"' in INSTALL_DETECTRON2
    assert "-r requirements-detectron2.txt" in (ROOT / "Makefile").read_text()

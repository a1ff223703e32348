"""The repository holds all files of the package: none is left out by .gitignore, none by setup.py."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


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


def test_wheel_holds_code_tables_and_configs(tmp_path):
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    unwanted = shutil.ignore_patterns("__pycache__")
    for name in ("panoptic_fusion", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=unwanted)
    command = [sys.executable, "setup.py", "-q", "bdist_wheel", "--dist-dir", "wheel"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    names = set(zipfile.ZipFile(next((tmp_path / "wheel").glob("*.whl"))).namelist())
    code = {str(p.relative_to(ROOT)) for p in (ROOT / "panoptic_fusion").rglob("*") if p.suffix in (".py", ".csv")}
    configs = {f"panoptic_fusion/{p.relative_to(ROOT)}" for p in (ROOT / "configs").rglob("*.yaml")}
    assert code | configs <= names

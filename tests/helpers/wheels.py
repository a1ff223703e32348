"""Builds the wheel of this project."""

import shutil
import subprocess
import sys
from pathlib import Path

from tiny_training import ROOT


def build_wheel(folder: Path) -> Path:
    """Builds the wheel in an empty folder, from a copy of what the repository holds."""
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    unwanted = shutil.ignore_patterns("__pycache__")
    for name in ("panoptic_fusion", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=unwanted)
    options = ["--no-deps", "--no-build-isolation", "--no-index"]
    command = [sys.executable, "-m", "pip", "wheel", *options, "-w", "made", "."]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return next((folder / "made").glob("panoptic_fusion-*.whl"))

"""The package's layers, as pyproject.toml names them: who imports whom is checked by import-linter."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from tiny_training import ROOT

pytest.importorskip("importlinter", reason="import-linter is in requirements-dev.txt")

LINT = "from importlinter.cli import lint_imports_command; lint_imports_command()"


def lint(folder: Path, package: Path) -> subprocess.CompletedProcess:
    """Checks the contracts of folder/pyproject.toml on the package that lies in `package`."""
    command = [sys.executable, "-c", LINT, "--config", str(folder / "pyproject.toml"), "--no-cache"]
    return subprocess.run(
        command, cwd=folder, env={"PYTHONPATH": str(package), "PATH": ""}, capture_output=True, text=True
    )


def test_contracts_are_kept():
    done = lint(ROOT, ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert f"{len(contracts)} kept, 0 broken" in done.stdout


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("data/rle.py", "from ..modeling.fusion import HeuristicFusion", "layers below it"),
        ("modeling/fusion/upsnet/boxes.py", "from ..oanet import spatial_ranking", "one paper's fusion"),
        ("modeling/stuff_heads/tasc.py", "from ..things import roi_heads", "parts of a network"),
        ("networks/freeze.py", "from panoptic_fusion.engine import trainer", "layers below it"),
        ("new_room.py", "", "layers below it"),
    ],
)
def test_a_wrong_import_is_found(module, line, broken, tmp_path):
    """The contracts see an import upwards, also within a function, and a module that belongs to no layer."""
    for path in (ROOT / "panoptic_fusion").rglob("*.py"):
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    with (tmp_path / "panoptic_fusion" / module).open("a") as file:
        file.write(f"\n\ndef use():\n    {line or 'pass'}\n")
    done = lint(tmp_path, tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    wrong = [text for text in " ".join(done.stdout.split()).split("KEPT") if "BROKEN" in text]
    assert wrong and broken in " ".join(wrong)

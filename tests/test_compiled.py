"""compiled: with numba, without it, and where its cache cannot be used."""

import subprocess
import sys

import numpy as np
import pytest

from panoptic_fusion.compiled import compiled

SOURCE = """
def double(numbers):
    for i in range(len(numbers)):
        numbers[i] = 2 * numbers[i]
"""
PROGRAM = """
import numpy as np, sys
sys.path.insert(0, sys.argv[1])
from loops import double
from panoptic_fusion.compiled import compiled
numbers = np.arange(3.0)
compiled(double, "void(float64[::1])")(numbers)
print(numbers.tolist(), type(compiled(double, "void(float64[::1])")).__name__)
"""


def run(folder, env):
    done = subprocess.run([sys.executable, "-c", PROGRAM, folder], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("]")[0] == "[0.0, 2.0, 4.0"
    return done.stdout


def test_without_numba(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)  # import numba raises ImportError
    compiled.cache_clear()
    try:
        assert compiled(lambda: None, "void()") is None
    finally:
        compiled.cache_clear()


def test_damaged_and_unwritable_caches(tmp_path, child_env):
    pytest.importorskip("numba")
    loops = tmp_path / "loops.py"
    loops.write_text(SOURCE)
    assert "Dispatcher" in run(tmp_path, child_env)
    stored = [*(tmp_path / "__pycache__").glob("*.nb?")]
    assert {path.suffix for path in stored} == {".nbi", ".nbc"}
    for path in stored:  # a full disk, a killed process
        path.write_bytes(path.read_bytes()[:100])
        assert "Dispatcher" in run(tmp_path, child_env)
    unwritable = tmp_path / "file"
    unwritable.write_text("")
    assert "Dispatcher" in run(tmp_path, {**child_env, "NUMBA_CACHE_DIR": str(unwritable / "folder")})


def test_switched_off(child_env, tmp_path):
    pytest.importorskip("numba")
    program = (
        "from panoptic_fusion.compiled import compiled; import sys; assert 'numba' not in sys.modules;"
        "print(compiled(lambda: None, 'void()'))"
    )
    env = {**child_env, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "None"


def test_arrays_are_changed_in_place():
    pytest.importorskip("numba")

    def add(numbers):
        for i in range(len(numbers)):
            numbers[i] += i

    numbers = np.zeros(4)
    compiled(add, "void(float64[::1])")(numbers)
    assert numbers.tolist() == [0, 1, 2, 3]

"""Every benchmark runs: its --quick mode in a process of its own. Times are not looked at."""

import re
import subprocess
import sys

import pytest
from tiny_training import ROOT

# What the benchmarks and gpu.sh use.
SHARED = {"arguments", "launch_counter", "simulated_device", "peak_memory", "gpu_parts", "gpu"}
NAMES = sorted({path.stem for path in (ROOT / "benchmarks").glob("*.py")} - SHARED)


@pytest.mark.parametrize("name", NAMES)
def test_quick_mode(name, child_env, tmp_path):
    command = [sys.executable, "-W", "ignore", str(ROOT / "benchmarks" / f"{name}.py"), "--quick"]
    done = subprocess.run(command, env=child_env, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert re.search(r"\d\.\d", done.stdout), done.stdout  # a figure

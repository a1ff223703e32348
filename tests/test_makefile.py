"""The Makefile's demo-real: what it is called with reaches `panoptic-fusion fine-tune` word by word."""

import shutil
import subprocess
import sys

import pytest
from tiny_training import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not there")


@pytest.fixture
def make(tmp_path):
    """Runs make with a virtual environment whose python prints its arguments, one a line."""
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    python = tmp_path / "venv" / "bin" / "python"
    python.write_text(f"#!{sys.executable}\nimport sys\nprint(*sys.argv[1:], sep='\\n')\n")
    python.chmod(0o755)
    (tmp_path / "venv" / ".panoptic_fusion_installed").touch()  # newer than the requirements: nothing is installed

    def run(*words):
        command = ["make", "-s", "--no-print-directory", f"VENV={tmp_path / 'venv'}", "demo-real", *words]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    return run


def test_words_reach_the_tool(make):
    opts = (
        "INPUT.MIN_SIZE_TRAIN (600,800) MODEL.PIXEL_MEAN [1.0,2.0,3.0] DATASETS.TEST ('own_val',) OUTPUT_DIR a;b$$HOME*"
    )
    done = make("DATA=my photos", "OUT=out", "ITERATIONS=7", f"OPTS={opts}")
    assert done.returncode == 0, done.stderr
    words = done.stdout.splitlines()
    config = "camvid/panoptic_fpn_lite0.yaml"
    expected = ["-m", "panoptic_fusion", "fine-tune", "--data", "my photos", "--output", "out", "--config-file", config]
    assert words == [*expected, "--iterations", "7", *opts.replace("$$", "$").split()]


def test_without_options(make):
    done = make("DATA=photos")
    assert done.returncode == 0 and done.stdout.splitlines()[-2:] == [
        "--config-file",
        "camvid/panoptic_fpn_lite0.yaml",
    ]


def test_without_data(make):
    done = make()
    assert done.returncode == 2 and "needs DATA=FOLDER" in done.stdout and "fine-tune" not in done.stdout

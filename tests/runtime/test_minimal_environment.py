"""A new environment with the four packages and the wheel: the demo's maps equal PyTorch's; prints size and start-up.

`pytest -m slow -s tests/runtime/test_minimal_environment.py` prints the figures of docs/deploy.md.
"""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import numpy as np
import pytest
from tiny_training import ROOT
from wheels import build_wheel

from panoptic_fusion import export
from panoptic_fusion.data.annotation import read_id_map

PACKAGES = ("onnxruntime", "numpy", "pillow", "opencv-python-headless")
START = {
    "PyTorch": "from panoptic_fusion.networks.trained import build_predictor, load_trained; "
    "build_predictor(load_trained(sys.argv[1]))",
    "onnxruntime": "import panoptic_fusion; panoptic_fusion.OnnxPredictor(sys.argv[1])",
}  # {system: code until it can segment an image}


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """Interpreter of a new environment, with versions of requirements.txt where it has them."""
    folder = tmp_path_factory.mktemp("minimal")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pinned = {line.partition("==")[0]: line for line in lines if "==" in line}
    install = [python, "-m", "pip", "install", "--quiet"]
    if subprocess.run([*install, *(pinned.get(name, name) for name in PACKAGES)]).returncode:
        pytest.skip("the packages cannot be downloaded")
    wheel = build_wheel(tmp_path_factory.mktemp("wheel"))
    subprocess.run([*install, "--no-deps", "--no-index", wheel], check=True)
    return python


def maps_of(output: Path) -> dict[str, np.ndarray]:
    entries = json.loads((output / "panoptic.json").read_text())["annotations"]
    return {entry["image_id"]: read_id_map(str(output / entry["file_name"])) for entry in entries}


@pytest.mark.slow
def test_the_demo_in_a_new_environment(python, trained, tiny_data, child_env, tmp_path):
    model, thresh = tmp_path / "model.onnx", ["MODEL.PANOPTIC_FUSION.INSTANCES_CONFIDENCE_THRESH", "0.05"]
    export(str(trained), output=model, opts=thresh)
    images = [Path(tiny_data[split]["images"]) for split in ("train", "val")]
    files = [file for folder in images for file in sorted(folder.iterdir())][:8]
    alone = {key: value for key, value in child_env.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    inputs = ["demo", "--input", *files, "--output"]
    ours = [python.with_name("panoptic-fusion"), *inputs, "alone", "--onnx", model]
    done = subprocess.run(ours, cwd=tmp_path, env=alone, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    theirs = [sys.executable, "-m", "panoptic_fusion", *inputs, "full", "--model", trained, "--opts", *thresh]
    subprocess.run(theirs, cwd=tmp_path, env=child_env, check=True, capture_output=True)
    found, expected = maps_of(tmp_path / "alone"), maps_of(tmp_path / "full")
    assert found.keys() == expected.keys() and len(found) == 8
    equal = {name: float((found[name] == expected[name]).mean()) for name in found}
    assert min(equal.values()) >= 0.9999
    assert sum(len(np.unique(ids)) for ids in found.values()) > 20

    site = next(python.parents[1].glob("lib/python*/site-packages"))
    print(f"\nequal pixels of 8 images: {min(equal.values()):.4%} to {max(equal.values()):.4%}")
    for name, interpreter, folder, source, env in (
        ("onnxruntime", python, site, model, alone),
        ("PyTorch", sys.executable, Path(sysconfig.get_path("purelib")), trained, child_env),
    ):
        seconds = min(start_up(interpreter, START[name], source, env) for _ in range(3))
        size = sum(file.lstat().st_size for file in folder.rglob("*")) / 1e6
        print(f"{name}: {size:.0f} MB of packages, {seconds:.2f} s of CPU time until it can segment an image")


def start_up(python: Path, code: str, source: Path, env: dict[str, str]) -> float:
    """CPU seconds of a process that loads a model."""
    before = os.times()
    subprocess.run([python, "-c", f"import sys; {code}", str(source)], env=env, check=True, capture_output=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system

"""The wheel in an empty folder, in an environment that sees torch and detectron2 but not the clone."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from tiny_training import TINY_NETWORK, as_opts
from wheels import build_wheel

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def command(wheel: Path, tmp_path_factory):
    """Runs the console script of an environment with the wheel in an empty folder: (exit code, stdout, stderr)."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    python = folder / "venv" / "bin" / "python"
    site = next((folder / "venv" / "lib").glob("python*/site-packages"))
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--prefix", str(folder / "venv")]
    subprocess.run([*install, "--ignore-installed", str(wheel)], check=True, capture_output=True)
    # torch and detectron2 come after the wheel; the clone, installed for editing, is not seen: its .pth is not read
    (site / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    script = folder / "venv" / "bin" / "panoptic-fusion"
    script.write_text("\n".join([f"#!{python}", *script.read_text().splitlines()[1:]]))
    work = tmp_path_factory.mktemp("empty")
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    env |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

    def run(*words: str) -> tuple[int, str, str]:
        done = subprocess.run([script, *map(str, words)], cwd=work, env=env, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    run.folder, run.python, run.env = work, python, env
    return run


def test_the_wheel_holds_code_tables_and_configs(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    kinds = (".py", ".csv", ".typed")
    code = {str(p.relative_to(ROOT)) for p in (ROOT / "panoptic_fusion").rglob("*") if p.suffix in kinds}
    configs = {f"panoptic_fusion/{p.relative_to(ROOT)}" for p in (ROOT / "configs").rglob("*.yaml")}
    static = "panoptic_fusion/evaluation/report/static"
    page = {str(p.relative_to(ROOT)) for p in (ROOT / static).rglob("*") if p.is_file()}
    assert f"{static}/vendor/LICENSE.vue" in page
    assert code | configs | page <= names
    assert "panoptic_fusion/py.typed" in code


def test_the_wheel_says_what_it_needs(wheel: Path):
    archive = zipfile.ZipFile(wheel)
    metadata = next(archive.read(n).decode() for n in archive.namelist() if n.endswith("METADATA"))
    required = {line.split()[1].rstrip(";") for line in metadata.splitlines() if line.startswith("Requires-Dist")}
    plain = {name.partition(">")[0].partition("<")[0].partition("=")[0].lower() for name in required}
    assert {"torch", "torchvision", "pyyaml", "numpy", "opencv-python", "tabulate", "filelock", "timm"} <= plain
    assert not any("detectron2" in name for name in plain)


def test_train_check_and_demo_in_an_empty_folder(command):
    code, out, err = command("--version")
    assert code == 0 and out.startswith("panoptic-fusion "), err
    where = [command.python, "-c", "import panoptic_fusion; print(panoptic_fusion.__file__)"]
    found = subprocess.run(
        where, cwd=command.folder, env=command.env, capture_output=True, text=True, check=True
    ).stdout
    assert found.startswith(str(command.python.parents[1])), found

    numbers = ["--num-train", 2, "--num-val", 1, "--size", 96, 128]
    code, out, err = command("prepare", "toy", *numbers)
    assert code == 0, err
    code, out, err = command("check", "--config-file", "toy/panoptic_fpn_r18.yaml", "toy_val")
    assert code == 0 and "toy_val: no problems in 1 image," in out, out + err
    settings = as_opts({**TINY_NETWORK, "SOLVER.MAX_ITER": 2, "OUTPUT_DIR": "out"})
    code, out, err = command("train", "--config-file", "toy/panoptic_fpn_r18.yaml", *settings)
    assert code == 0 and (command.folder / "out" / "results.json").is_file(), out + err
    code, out, err = command("demo", "--model", "out", "--input", "datasets/toy/val/images", "--output", "seen")
    assert code == 0 and (command.folder / "seen" / "panoptic.json").is_file(), out + err

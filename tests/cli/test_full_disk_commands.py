"""Commands on a full disk: one line that says so and what is kept, and the same command completes with room."""

import errno
import json
import os
from pathlib import Path

import dataset_trees
import numpy as np
import pytest
import torch
from annotation_writers import labelme
from limited_files import room_for
from polygon_scenes import make_scene

from panoptic_fusion.cli import child, convert, main


@pytest.fixture
def commands(trained, tiny_data, toy_config, tiny_opts, tmp_path, monkeypatch) -> dict[str, list]:
    """Command lines that write to `tmp_path`/out."""
    out, val = tmp_path / "out", tiny_data["val"]
    dataset_trees.make_idd(tmp_path / "idd", np.random.default_rng(0), frames=2)
    labelme("polygon")(tmp_path / "labelme", [make_scene(seed) for seed in range(2)])
    for split, files in tiny_data.items():
        (tmp_path / "own" / split).mkdir(parents=True)
        for key, name in (("images", "images"), ("panoptic_root", "panoptic"), ("panoptic_json", "panoptic.json")):
            (tmp_path / "own" / split / name).symlink_to(files[key])
    read = ({"a": torch.zeros(9999)}, "MODEL:\n  X: 1\n", None)
    monkeypatch.setattr(convert, "_read", lambda *_: read)

    def run(*words: str) -> int:
        with pytest.raises(SystemExit) as exit_info:
            main(words)
        return exit_info.value.code

    monkeypatch.setattr(child, "run", run)
    paths = ["--images", val["images"], "--panoptic-root", val["panoptic_root"]]
    paths += ["--panoptic-json", val["panoptic_json"]]
    opts = [*tiny_opts[: tiny_opts.index("DATASETS.REGISTER")], "SOLVER.MAX_ITER", "1"]
    return {
        "evaluate": ["evaluate", "--model", trained, "OUTPUT_DIR", out],
        "prepare": ["prepare", "idd", tmp_path / "idd", "--splits", "train", "--workers", "1"],
        "prepare in processes": ["prepare", "idd", tmp_path / "idd", "--splits", "train", "--workers", "2"],
        "prepare toy": ["prepare", "toy", "--output", out, "--num-train", "1", "--num-val", "1", "--size", "96", "96"],
        "check": ["check", *paths, "--workers", "0", "--output", out],
        "import": ["import", tmp_path / "labelme", "--output", out, "--workers", "1"],
        "import in processes": ["import", tmp_path / "labelme", "--output", out, "--workers", "2", "--copy-images"],
        "convert": ["convert", "seamseg", "x", out / "out.pth", "--config", out / "c.yaml"],
        "fine-tune": ["fine-tune", "--data", tmp_path / "own", "--output", out, "--config-file", toy_config, *opts],
        "demo": ["demo", "--model", trained, "--input", val["images"], "--output", out],
        "demo in full": ["demo", "--model", trained, "--input", val["images"], "--output", out, *EVERY],
        "compare": ["compare", "--model", trained, "--dataset", "tiny_val", "--output", out, "--num-images", "2"],
        "oracle": ["oracle", "--model", trained, "--dataset", "tiny_val", "--output", out, "--num-images", "1"],
    }


EVERY = ("--cutouts", "--instances-json")

# Command: bytes that fit into a file, for a failure at its first file and at a later one.
ROOM = {
    "evaluate": (0, 800),
    "prepare": (0, 300, 800),
    "prepare in processes": (0, 300),
    "prepare toy": (0, 4000),
    "check": (0, 20_000),
    "import": (0, 300),
    "import in processes": (0, 300),
    "convert": (0, 5000),
    "fine-tune": (0, 20_000, 100_000),
    "demo": (0, 8000),
    "demo in full": (0, 8000),
    "compare": (0, 60_000),
    "oracle": (0, 500),
}


@pytest.mark.parametrize(("name", "size"), [(name, size) for name, sizes in ROOM.items() for size in sizes])
def test_one_line_and_the_rerun_completes(run_script, commands, tmp_path: Path, name: str, size: int):
    words = commands[name]
    if name == "convert":
        (tmp_path / "out").mkdir()
    with room_for(size):
        code, _, err = run_script(*words)
    errors = [line for line in err.splitlines() if "error: " in line]
    assert code == 2 and "Traceback" not in err and "--- Logging error" not in err, err
    assert len(errors) == 1 and errors[0] == err.splitlines()[-1], err
    assert "cannot write" in errors[0] and os.strerror(errno.EFBIG) in errors[0] and " kept" in errors[0]
    assert not list(tmp_path.rglob(".*.partial"))
    if name.startswith("demo"):  # the images before the first one that did not fit
        found = json.loads((tmp_path / "out" / "panoptic.json").read_text())["annotations"] if size else []
        assert all((tmp_path / "out" / entry["file_name"]).is_file() for entry in found)
        assert f"{len(found)} images are done: " in err or not size
    code, out, err = run_script(*words)
    assert code == 0, out + err

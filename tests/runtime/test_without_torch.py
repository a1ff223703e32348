"""The package, OnnxPredictor and `demo --onnx` in processes that cannot import torch, detectron2 and others."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
from tiny_onnx import metadata, write_model

from panoptic_fusion.data.annotation import read_id_map
from panoptic_fusion.runtime import OnnxPredictor

# What is installed with `pip install onnxruntime numpy pillow opencv-python-headless` is left.
BLOCK = """
import sys
for name in ("torch", "torchvision", "detectron2", "fvcore", "yacs", "yaml", "pycocotools", "matplotlib", "tqdm",
             "filelock", "tabulate", "scipy", "onnx"):
    sys.modules[name] = None
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(8):
        size = rng.integers(30, 150, 2)
        cv2.imwrite(str(folder / f"{i}.png"), rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    return folder


@pytest.fixture
def run(child_env, tmp_path):
    def run_code(code, *words):
        command = [sys.executable, "-c", BLOCK + code, *map(str, words)]
        return subprocess.run(command, cwd=tmp_path, env=child_env, capture_output=True, text=True)

    return run_code


COMMAND = "from panoptic_fusion.cli import main; main()"


@pytest.mark.parametrize("name", ["SpatialRankingFusion", "UPSNetFusion"])
def test_the_demo_writes_the_same_maps(name, images, run, tmp_path):
    model = write_model(tmp_path / "model.onnx", metadata(name), ranking=name == "SpatialRankingFusion")
    done = run(COMMAND, "demo", "--onnx", model, "--input", images, "--output", "out")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    predictor = OnnxPredictor(model)
    written = json.loads((tmp_path / "out" / "panoptic.json").read_text())
    assert len(written["annotations"]) == 8
    assert {c["name"] for c in written["categories"]} == {"sky", "car", "road", "person"}
    for entry in written["annotations"]:
        expected, segments_info = predictor(cv2.imread(entry["image"]))["panoptic_seg"]
        assert np.array_equal(read_id_map(str(tmp_path / "out" / entry["file_name"])), expected)
        assert (tmp_path / "out" / f"{entry['image_id']}.jpg").is_file()
        names = {"thing": ["person", "car"], "stuff": ["sky", "road"]}
        for found, info in zip(entry["segments_info"], segments_info, strict=True):
            assert found["category"] == names["thing" if info["isthing"] else "stuff"][info["category_id"]]
            assert found["area"] == info["area"]


def test_the_function_and_the_class_are_exported(images, run, tmp_path):
    model = write_model(tmp_path / "model.onnx")
    code = f"""
import panoptic_fusion as pf
import numpy as np
found = pf.OnnxPredictor({str(model)!r})(np.zeros((40, 50, 3), np.uint8))
assert found["panoptic_seg"][0].shape == (40, 50)
assert len(pf.demo(onnx={str(model)!r}, inputs=[{str(images)!r}], output="out", cutouts=True)["images"]) == 8
assert "panoptic_fusion.modeling" not in sys.modules
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "out" / "cutouts").glob("*.png"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--onnx", "absent.onnx"], "No such file: absent.onnx"),
        (["--onnx", "MODEL", "--provider", "cuda"], "provider 'cuda' is not available"),
        (["--onnx", "MODEL", "--model", "output"], "leave out --model"),
        (["--onnx", "MODEL", "--opts", "A", "1"], "leave out --opts"),
        (["--model", "output", "--provider", "cpu"], "--provider needs --onnx"),
        (["--model", "output"], "is not installed"),
        ([], "pass --model"),
    ],
)
def test_errors_are_one_line(words, message, images, run, tmp_path):
    model = write_model(tmp_path / "model.onnx")
    words = [str(model) if word == "MODEL" else word for word in words]
    opts = words[words.index("--opts") :] if "--opts" in words else []
    done = run(COMMAND, "demo", *words[: len(words) - len(opts)], "--input", images, "--output", "out", *opts)
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.startswith("panoptic-fusion demo: error: ")
    assert done.stderr.count("\n") == 1 or "detectron2 is not installed" in done.stderr
    assert not (tmp_path / "out").exists()


def test_other_commands_and_names_say_what_is_missing(run):
    done = run(COMMAND, "train", "--config-file", "toy/panoptic_fpn_r18.yaml")
    assert done.returncode == 2 and "is not installed" in done.stderr
    assert "Traceback" not in done.stderr
    done = run("import panoptic_fusion; panoptic_fusion.train")
    assert "ImportError: detectron2 is not installed" in done.stderr
    assert run(COMMAND, "--help").returncode == 0

"""Changes of the data and the weights of a run are told when its checkpoint or its results are used again."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from tiny_training import as_opts

from panoptic_fusion import evaluate, train
from panoptic_fusion.engine.inputs import changed_inputs
from panoptic_fusion.networks.trained import load_trained

WARNING = "changed since the run in"


@pytest.fixture
def data(tiny_data, tiny_settings, tmp_path):
    """(files, opts): a copy of the tiny data that a test may change, and a run of one iteration on it."""
    files = {}
    for split, entry in tiny_data.items():
        source = Path(entry["images"]).parent
        shutil.copytree(source, tmp_path / split)
        files[split] = {key: path.replace(str(source), str(tmp_path / split)) for key, path in entry.items()}
    entries = [{"name": f"inputs_{tmp_path.name}_{split}", **files[split]} for split in files]
    names = {f"DATASETS.{key}": str((entry["name"],)) for key, entry in zip(("TRAIN", "TEST"), entries, strict=True)}
    changes = {"DATASETS.REGISTER": str(entries), **names, "SOLVER.MAX_ITER": 1, "TEST.EVALUATORS": "('panoptic',)"}
    return files, as_opts({**tiny_settings, **changes})


def remove_a_segment(files):
    path = Path(files["panoptic_json"])
    content = json.loads(path.read_text())
    segment = content["annotations"][0]["segments_info"].pop()
    path.write_text(json.dumps(content))
    png = Path(files["panoptic_root"], content["annotations"][0]["file_name"])
    pixels = np.array(Image.open(png))
    pixels[pixels @ np.array([1, 256, 65536]) == segment["id"]] = 0
    Image.fromarray(pixels).save(png)


def touch_a_file(key):
    def touch(files):
        path = next(Path(files[key]).iterdir())
        os.utime(path, ns=(1, 1))

    return touch


@pytest.mark.parametrize(
    ("split", "change", "is_told"),
    [
        ("train", remove_a_segment, True),
        ("train", touch_a_file("images"), True),
        ("train", touch_a_file("panoptic_root"), True),
        ("val", touch_a_file("images"), False),  # evaluated again anyway
        ("train", lambda files: None, False),
    ],
)
def test_a_resumed_run_tells_that_its_data_changed(
    toy_config, data, tmp_path, capsys, one_thread, split, change, is_told
):
    files, opts = data
    opts = [*opts, "OUTPUT_DIR", str(tmp_path / "out")]
    train(toy_config, opts)
    change(files[split])
    assert WARNING not in capsys.readouterr().out
    train(toy_config, opts, resume=True)
    lines = [line for line in capsys.readouterr().out.splitlines() if WARNING in line]
    assert len(lines) == is_told
    assert all(f"dataset 'inputs_{tmp_path.name}_train' {WARNING} {tmp_path / 'out'}" in line for line in lines)


def test_a_resumed_run_tells_that_its_initial_weights_changed(toy_config, data, trained, tmp_path, capsys, one_thread):
    weights = tmp_path / "initial.pth"
    shutil.copy(trained / "model_final.pth", weights)
    opts = [*data[1], "MODEL.WEIGHTS", str(weights), "OUTPUT_DIR", str(tmp_path / "out")]
    train(toy_config, opts)
    os.utime(weights, ns=(1, 1))
    train(toy_config, opts, resume=True)
    assert f"MODEL.WEIGHTS {weights} {WARNING}" in capsys.readouterr().out


def test_a_resumed_run_tells_which_options_changed(toy_config, data, tmp_path, capsys, one_thread):
    opts = [*data[1], "OUTPUT_DIR", str(tmp_path / "out")]
    train(toy_config, opts)
    train(toy_config, opts, resume=True)
    assert "continues with other values" not in capsys.readouterr().out
    changes = ["SOLVER.BASE_LR", "0.5", "MODEL.PANOPTIC_FUSION.OVERLAP_THRESH", "0.25"]
    train(toy_config, [*opts, *changes], resume=True)
    line = next(line for line in capsys.readouterr().out.splitlines() if "continues with other values" in line)
    assert "SOLVER.BASE_LR 0.5 (was 0.01)" in line and "OVERLAP_THRESH 0.25 (was 0.5)" in line
    assert line.count("(was ") == 2


def test_an_evaluation_records_its_data_unless_a_training_run_did(data, trained, tmp_path, one_thread):
    files, opts = data
    for folder in (tmp_path / "new", tmp_path / "run"):
        folder.mkdir()
        if folder.name == "run":
            shutil.copy(trained / "last_checkpoint", folder)
        evaluate(str(trained), opts=[*opts, "OUTPUT_DIR", str(folder)], report=False)
        assert (folder / "inputs.json").is_file() == (folder.name == "new")
    cfg = load_trained(trained, opts)
    assert changed_inputs(cfg, tmp_path / "new", cfg.DATASETS.TEST) == []
    touch_a_file("images")(files["val"])
    assert changed_inputs(cfg, tmp_path / "new", cfg.DATASETS.TEST) == [f"dataset {cfg.DATASETS.TEST[0]!r}"]
    shutil.rmtree(tmp_path / "val")
    assert changed_inputs(cfg, tmp_path / "new", cfg.DATASETS.TEST) == [f"dataset {cfg.DATASETS.TEST[0]!r}"]


def test_an_ablation_tells_that_the_data_of_a_finished_run_changed(toy_config, data, tmp_path, run_script):
    files, opts = data
    common = opts[: opts.index("SEED")] + opts[opts.index("SEED") + 2 :]
    spec = {"base": toy_config, "seeds": [1], "common": common, "metrics": ["PQ"], "runs": {"plain": []}}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
    words = ["ablation", tmp_path / "spec.yaml", "--output", tmp_path / "out"]
    assert run_script(*words)[0] == 0
    code, out, _ = run_script(*words)
    assert code == 0 and "finished before\n" in out
    touch_a_file("panoptic_root")(files["val"])
    code, out, _ = run_script(*words)
    text = f"finished before; dataset 'inputs_{tmp_path.name}_val' changed since: remove {tmp_path}/out/plain/seed1"
    assert code == 0 and text in out

"""One run per folder, no folder for a run that does not start, and a console that a person can read."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from panoptic_fusion.config import default_output_dir
from panoptic_fusion.engine.console import ConsoleFilter, class_list
from panoptic_fusion.engine.preflight import check_processes, check_writable
from panoptic_fusion.errors import ConfigError
from panoptic_fusion.locks import locked_folder


def command(*words: str, env: dict, cwd: Path) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", "panoptic_fusion", *map(str, words)]
    return subprocess.run(line, env=env, cwd=cwd, capture_output=True, text=True, timeout=300)


def test_a_second_training_in_a_folder_is_refused(toy_config, tiny_opts, tmp_path, child_env):
    output = tmp_path / "out"
    output.mkdir()
    with locked_folder(output, "it"):
        result = command(
            "train", "--config-file", toy_config, *tiny_opts, "OUTPUT_DIR", output, env=child_env, cwd=tmp_path
        )
    assert result.returncode == 2
    assert f"OUTPUT_DIR {output} is in use by another run" in result.stderr.splitlines()[-1]
    assert [p.name for p in output.iterdir()] == [".lock"]


def test_a_second_evaluation_is_refused_and_one_beside_a_training_is_not(run_script, trained, tiny_data, tmp_path):
    folder = tmp_path / "out" / "inference" / "tiny_val"
    folder.mkdir(parents=True)
    words = ["evaluate", "--model", str(trained), "OUTPUT_DIR", str(tmp_path / "out")]
    with locked_folder(folder, "it"):
        code, _, err = run_script(*words)
        assert code == 2 and f"the evaluation in {folder} is in use" in err
    with locked_folder(tmp_path / "out", "a training"):
        assert run_script(*words)[0] == 0


@pytest.mark.parametrize(
    "opts", [("SOLVER.MAX_ITER", "0"), ("DATASETS.TRAIN", "('nothing',)"), ("MODEL.WEIGHTS", "no.pth")]
)
def test_a_refused_start_leaves_no_folder(run_script, toy_config, tiny_opts, tmp_path, opts):
    output = tmp_path / "a" / "b"
    assert run_script("train", "--config-file", toy_config, *tiny_opts, *opts, "OUTPUT_DIR", str(output))[0] == 2
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--output: cannot write to"):
        check_writable(str(tmp_path / "file" / "out"), "--output")
    check_writable(str(tmp_path / "new" / "out"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


@pytest.mark.parametrize(
    "config, folder",
    [
        ("toy/panoptic_fpn_r18.yaml", "output/toy_panoptic_fpn_r18"),
        ("configs/toy/upsnet_r18.yaml", "output/toy_upsnet_r18"),
    ],
)
def test_a_config_without_output_dir_writes_to_a_folder_of_its_name(config, folder):
    assert default_output_dir(config) == folder


def test_a_config_of_ones_own(tmp_path):
    (tmp_path / "mine.yaml").write_text("VERSION: 2")
    assert default_output_dir(tmp_path / "mine.yaml") == "output/mine"


def test_the_batch_size_is_of_no_concern_to_an_evaluation(tiny_cfg, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError, match="IMS_PER_BATCH"):
        check_processes(tiny_cfg, 3, 1)
    check_processes(tiny_cfg, 3, 1, eval_only=True)


def record(name: str, level: int, text: str) -> logging.LogRecord:
    return logging.LogRecord(name, level, "", 0, text, (), None)


def test_what_the_console_shows():
    shown = ConsoleFilter().filter
    assert shown(record("panoptic_fusion.engine.hooks", logging.INFO, "iteration 3 of 9"))
    assert shown(record("pf.engine.hooks", logging.INFO, "iteration 3 of 9"))
    assert shown(record("detectron2.evaluation.evaluator", logging.INFO, "Inference done 3/9. ETA=0:01:00"))
    assert shown(record("fvcore.common.checkpoint", logging.WARNING, "skipped"))
    assert not shown(record("detectron2.evaluation.evaluator", logging.INFO, "Start inference"))
    assert not shown(record("detectron2", logging.INFO, "Running with full config"))


def test_a_start_is_short_and_the_file_has_all(toy_config, tiny_opts, tmp_path, child_env):
    words = ["train", "--config-file", toy_config, *tiny_opts, "OUTPUT_DIR", tmp_path / "out", "SOLVER.MAX_ITER", "2"]
    result = command(*words, env=child_env, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    start = result.stdout.split("iteration 2 of 2")[0]
    assert "thing classes" in start and len(start.splitlines()) < 40
    assert result.stderr == ""
    assert "Average Precision" not in result.stdout  # COCO's tools print it
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "Running with full config" in log and len(log.splitlines()) > 300
    assert "Average Precision" in log


def test_long_lists_of_classes_end_with_dots():
    assert class_list(["car", "bus"]) == "2: car, bus"
    assert class_list([]) == "0"
    text = class_list([f"class {i}" for i in range(300)])
    assert text.startswith("300: class 0, class 1") and text.endswith(", ...") and len(text) < 120

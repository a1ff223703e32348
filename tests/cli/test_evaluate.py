"""`panoptic-fusion evaluate`, and that a process resolves its config once."""

import json
from pathlib import Path

import cv2
import pytest
import torch

from panoptic_fusion import load_trained
from panoptic_fusion.cli.evaluate import evaluate
from panoptic_fusion.config import resolve
from panoptic_fusion.networks.trained import build_predictor


@pytest.fixture
def resolutions(monkeypatch) -> list[str]:
    """Grows by one with every config that is resolved."""
    seen, check_parts = [], resolve.check_parts
    monkeypatch.setattr(resolve, "check_parts", lambda cfg: seen.append(cfg.OUTPUT_DIR) or check_parts(cfg))
    return seen


def read_results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def test_a_training_resolves_its_config_once(run_script, tiny_opts, toy_config, tmp_path, resolutions):
    words = ["--config-file", toy_config, *tiny_opts, "SOLVER.MAX_ITER", "1", "VIS_PERIOD", "1"]
    code, _, err = run_script("train", *words, "OUTPUT_DIR", tmp_path / "out")
    assert code == 0 and resolutions == [str(tmp_path / "out")], err


def test_resuming_and_evaluating_resolve_once(run_script, tiny_opts, toy_config, trained, tmp_path, resolutions):
    settings = [*tiny_opts, "MODEL.WEIGHTS", trained / "model_final.pth", "OUTPUT_DIR", tmp_path / "out"]
    words = ["train", "--resume", "--config-file", toy_config, *settings, "DATASETS.TEST", "()"]
    for iterations in (1, 2):
        code, _, err = run_script(*words, "SOLVER.MAX_ITER", iterations)
        assert code == 0 and len(resolutions) == iterations, err
    resolutions.clear()
    evaluate(trained, opts=["OUTPUT_DIR", str(tmp_path / "again")])
    assert resolutions == [str(tmp_path / "again")]


def test_both_ways_to_name_a_model_give_the_results_of_its_training(run_script, trained, tmp_path, capsys):
    expected = read_results(trained)
    code, _, err = run_script("evaluate", "--model", trained, "OUTPUT_DIR", tmp_path / "model")
    assert code == 0 and read_results(tmp_path / "model") == expected, err
    words = ["--config-file", trained / "config.yaml", "MODEL.WEIGHTS", trained / "model_final.pth"]
    code, _, err = run_script("evaluate", *words, "OUTPUT_DIR", tmp_path / "config")
    assert code == 0 and read_results(tmp_path / "config") == expected, err
    assert evaluate(trained, opts=["OUTPUT_DIR", str(tmp_path / "function")]) == expected
    assert read_results(trained) == expected


def test_what_cannot_be_evaluated(run_script, toy_config, tiny_opts, tmp_path):
    code, _, err = run_script("evaluate", "--model", tmp_path)
    assert code == 2 and "has no config.yaml" in err and "Traceback" not in err
    code, _, err = run_script("evaluate", "--config-file", toy_config, *tiny_opts, "OUTPUT_DIR", tmp_path / "out")
    assert code == 2 and "MODEL.WEIGHTS is empty" in err and "Traceback" not in err


def test_test_time_augmentation_in_an_evaluation_and_in_a_predictor(trained, tiny_data, tmp_path):
    """One view at the config's test size changes nothing; more views reach the networks of both."""
    views = ["TEST.AUG.ENABLED", "True", "TEST.AUG.FLIP", "False", "TEST.AUG.MIN_SIZES"]
    expected = read_results(trained)
    assert evaluate(trained, opts=[*views, "(64,)", "OUTPUT_DIR", str(tmp_path / "one")]) == expected
    assert evaluate(trained, opts=[*views, "(64, 96)", "OUTPUT_DIR", str(tmp_path / "two")]) != expected
    photo = cv2.imread(str(next(Path(tiny_data["val"]["images"]).glob("*.jpg"))))
    plain = build_predictor(load_trained(trained))(photo)
    one = build_predictor(load_trained(trained, [*views, "(64,)"]))(photo)
    two = build_predictor(load_trained(trained, [*views, "(64, 96)"]))(photo)
    assert torch.equal(plain["sem_seg"], one["sem_seg"]) and not torch.equal(plain["sem_seg"], two["sem_seg"])
    assert torch.equal(plain["panoptic_seg"][0], one["panoptic_seg"][0])

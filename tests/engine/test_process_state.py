"""Calls in one process do not affect each other: loggers, log files, random states, threads, environment."""

import json
import logging
import os
import random
import sys
import warnings

import cv2
import numpy as np
import pytest
import torch
from model_files import write_outputs
from PIL import Image

from panoptic_fusion import evaluate, fuse_files, import_annotations, train
from panoptic_fusion.data.mapper import build_augmentations
from panoptic_fusion.engine.process_state import restored_process
from panoptic_fusion.networks.trained import build_predictor, load_trained

LOGGERS = ("detectron2", "detectron2.engine.train_loop", "fvcore", "panoptic_fusion", "torch.utils.cpp_extension")


def state():
    loggers = [logging.getLogger(name) for name in LOGGERS]
    return {
        "python": random.getstate(),
        "numpy": [np.random.get_state()[1].tolist(), *np.random.get_state()[2:]],
        "torch": torch.get_rng_state().tolist(),
        "loggers": [(x.level, x.propagate, list(x.filters), list(x.handlers), x.disabled) for x in loggers],
        "filters of handlers": [list(handler.filters) for x in loggers for handler in x.handlers],
        "warnings": list(warnings.filters),
        "environment": {key: value for key, value in os.environ.items() if key != "PYTEST_CURRENT_TEST"},
        "threads": (torch.get_num_threads(), cv2.getNumThreads()),
        "torch's settings": (torch.backends.cudnn.benchmark, torch.get_default_dtype(), torch.is_grad_enabled()),
        "numpy's errors": np.geterr(),
    }


@pytest.fixture
def unchanged():
    """Checks at the end of the test that the state of the process is as it was at the start."""
    before = state()
    yield
    for key, value in state().items():
        assert value == before[key], key


def test_two_runs_in_one_process(toy_config, tiny_opts, tmp_path, capsys, one_thread, unchanged):
    texts = {}
    for name in ("first", "second"):
        train(
            toy_config, [*tiny_opts, "SOLVER.MAX_ITER", "1", "DATASETS.TEST", "()", "OUTPUT_DIR", str(tmp_path / name)]
        )
        texts[name] = (tmp_path / name / "log.txt").read_text()
    assert (tmp_path / "first" / "log.txt").read_text() == texts["first"]
    for name, text in texts.items():
        saved = f"Full config saved to {tmp_path / name / 'config.yaml'}"
        assert text.count(saved) == 1
        if name == "second":
            assert capsys.readouterr().out.count(saved) == 1


def test_a_run_after_its_folder_was_removed_has_a_log(trained, tmp_path, unchanged):
    for text in ("first", "second"):
        evaluate(str(trained), opts=["OUTPUT_DIR", str(tmp_path / "out")], report=False)
        (tmp_path / "out" / "log.txt").rename(tmp_path / text)
    assert "Running with full config" in (tmp_path / "second").read_text()


def test_an_error_restores_as_well(unchanged):
    with pytest.raises(KeyError), restored_process():
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark
        os.environ["PYTHONHASHSEED"] = "1"
        logging.getLogger("detectron2").addHandler(logging.StreamHandler(sys.stdout))
        warnings.simplefilter("ignore")
        raise KeyError


def test_the_callers_handlers_and_seed_stay(monkeypatch):
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    logger, handler = logging.getLogger("panoptic_fusion"), logging.StreamHandler()
    logger.addHandler(handler)
    try:
        with restored_process():
            handler.addFilter(logging.Filter("other"))
            os.environ["PYTHONHASHSEED"] = "1"
        assert handler in logger.handlers and handler.filters == [] and os.environ["PYTHONHASHSEED"] == "7"
    finally:
        logger.removeHandler(handler)


def test_a_predictor_and_test_images_draw_no_random_numbers(trained, unchanged):
    cfg = load_trained(trained)
    build_predictor(cfg)
    image = np.zeros((20, 30, 3), np.uint8)
    for augmentation in build_augmentations(cfg, is_train=False):
        assert augmentation.get_transform(image).new_h == cfg.INPUT.MIN_SIZE_TEST


def test_one_process_keeps_its_threads(tmp_path):
    numbers = torch.get_num_threads(), cv2.getNumThreads()
    try:
        torch.set_num_threads(2)
        cv2.setNumThreads(2)
        write_outputs(tmp_path, 1)
        files = (tmp_path / name for name in ("instances.json", "labels", "images.json"))
        assert fuse_files(*files, tmp_path / "fused", processes=1)["images"] == 1
        labels = tmp_path / "labelme"
        labels.mkdir()
        Image.new("RGB", (30, 20)).save(labels / "a.png")
        shape = {"label": "cat", "shape_type": "polygon", "points": [[3, 4], [9, 4], [9, 12]]}
        content = {"imagePath": "a.png", "imageData": None, "imageHeight": 20, "imageWidth": 30, "shapes": [shape]}
        (labels / "a.json").write_text(json.dumps(content))
        assert import_annotations(labels, tmp_path / "imported", workers=1).painted == 1
        assert (torch.get_num_threads(), cv2.getNumThreads()) == (2, 2)
    finally:
        torch.set_num_threads(numbers[0])
        cv2.setNumThreads(numbers[1])

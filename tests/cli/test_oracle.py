"""`panoptic-fusion oracle` on a tiny trained model; tests/evaluation/test_oracle_parts.py tests what it replaces."""

import json
import logging
import math
import uuid

import pytest

from panoptic_fusion.data import register_panoptic
from panoptic_fusion.evaluation import PanopticQualityEvaluator, oracle_study
from panoptic_fusion.evaluation.oracle import PARTS, ROWS


def test_table_and_json(run_script, trained, tmp_path):
    output = tmp_path / "oracle"
    code, out, err = run_script("oracle", "--model", trained, "--dataset", "tiny_val", "--output", output)
    assert code == 0, err
    content = json.loads((output / "oracle.json").read_text())
    assert content["dataset"] == "tiny_val" and content["images"] == 3
    rows = content["replaced"]
    assert list(rows) == ["model", "box", "box+class", "seg", "class", "box+class+seg"]
    # the first row is what evaluation says
    evaluated = json.loads((trained / "results.json").read_text())["panoptic_seg"]
    for name in ("PQ", "PQ_th", "PQ_st", "SQ", "RQ", "mIoU", "PQ-sky"):
        assert rows["model"][name] == pytest.approx(evaluated[name], abs=1e-9, nan_ok=True)
    # 96 x 128 images at 64 x 85: what resizing costs, and the things that are not found
    assert rows["seg"]["PQ_st"] > 75 and rows["box+class+seg"]["PQ_st"] > 75
    assert rows["seg"]["PQ"] > rows["model"]["PQ"] + 20
    table = [line.strip("|").split("|") for line in out.splitlines() if line.startswith("|")]
    assert [cell.strip() for cell in table[0]] == (
        ["GT box", "GT class", "GT seg", "PQ", "PQ_th", "PQ_st", "SQ", "RQ", "PQ gained"]
    )
    for line, row in zip(table[2:], ROWS, strict=True):
        cells = [cell.strip() for cell in line]
        assert [cell == "x" for cell in cells[:3]] == [part in row for part in PARTS]
        quality = rows["+".join(row) or "model"]["PQ"]
        assert float(cells[3]) == pytest.approx(quality, abs=0.051)
        assert not row or float(cells[8]) == pytest.approx(quality - rows["model"]["PQ"], abs=0.051)
    assert "ground truth for seg gains most" in out and str(output / "oracle.json") in out


def test_images_are_those_of_inference(run_script, trained, tmp_path):
    """Whatever the augmentations of training are."""
    arguments = ("--model", trained, "--dataset", "tiny_val", "--output", tmp_path)
    changed = ("INPUT.MIN_SIZE_TRAIN", "(32,)", "INPUT.RANDOM_FLIP", "vertical")
    results = []
    for opts in ((), changed):
        code, _, err = run_script("oracle", *arguments, *opts)
        assert code == 0, err
        results.append(json.loads((tmp_path / "oracle.json").read_text()))
    assert results[0] == results[1]


def test_interpretation():
    """By hand: which part gains most, what the others do, what is missing."""
    quality = dict(zip(ROWS, (40.0, 45.0, 52.0, 60.0, 39.5, 90.0), strict=True))
    text = oracle_study.interpretation({row: {"PQ": value} for row, value in quality.items()})
    assert text.startswith("Among the single parts, ground truth for seg gains most: +20.0 PQ (box +5.0, class -0.5).")
    assert "10.0 PQ are still missing" in text


def test_fewer_images_and_a_class_that_does_not_occur(run_script, trained, tmp_path, caplog):
    arguments = ("--model", trained, "--dataset", "tiny_val", "--output", tmp_path, "--num-images", "1")
    code, out, err = run_script("oracle", *arguments)
    assert code == 0 and "were evaluated" not in caplog.text, err
    assert not logging.getLogger(PanopticQualityEvaluator.__module__).disabled
    content = json.loads((tmp_path / "oracle.json").read_text())
    assert content["images"] == content["replaced"]["seg"]["images"] == 1
    assert None in content["replaced"]["seg"].values()
    assert not any(isinstance(v, float) and math.isnan(v) for v in content["replaced"]["seg"].values())


@pytest.fixture
def fails_early(run_script, trained, tmp_path, monkeypatch):
    """Runs the tool, which must end with this message before the network is built."""

    def check(message, *arguments):
        monkeypatch.setattr(oracle_study, "build_predictor", None)
        output = tmp_path / "out"
        code, _, err = run_script("oracle", "--model", trained, "--output", output, *arguments)
        assert code == 2 and message in err and "Traceback" not in err and not output.exists()

    return check


def test_errors_before_any_work_starts(fails_early):
    fails_early("dataset 'no_such' is not registered", "--dataset", "no_such")
    fails_early("--num-images is 0", "--dataset", "tiny_val", "--num-images", "0")
    other = ("MODEL.META_ARCHITECTURE", "SemanticNetwork")
    fails_early("in a PanopticRCNN or IndependentPanoptic only", "--dataset", "tiny_val", *other)
    views = ("TEST.AUG.ENABLED", "True")
    fails_early("parts of one view are replaced: add TEST.AUG.ENABLED False", "--dataset", "tiny_val", *views)


def test_a_model_must_be_named(run_script, tmp_path):
    code, _, err = run_script("oracle", "--dataset", "tiny_val", "--output", tmp_path)
    assert code == 2 and "pass --model" in err


def test_data_set_of_other_classes(fails_early, tmp_path):
    content = {
        "categories": [{"id": 1, "name": "sea", "isthing": 0}, {"id": 2, "name": "boat", "isthing": 1}],
        "images": [{"id": 1, "file_name": "a.jpg", "height": 4, "width": 4}],
        "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": []}],
    }
    (tmp_path / "other.json").write_text(json.dumps(content))
    name = f"oracle_{uuid.uuid4().hex}"
    register_panoptic(name, images=tmp_path, panoptic_root=tmp_path, panoptic_json=tmp_path / "other.json")
    fails_early(f"the classes of dataset {name!r} differ from the model's", "--dataset", name)

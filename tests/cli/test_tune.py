"""`panoptic-fusion tune` on a tiny trained model; tests/evaluation/tuning has the search, the scores and the report."""

import json
import os

import pytest
import yaml

import panoptic_fusion
from panoptic_fusion.evaluation.tuning import heads, study


@pytest.fixture(scope="module")
def tuned(trained, tmp_path_factory):
    """(output folder, content of tuning.json) of all rules on the 3 images of tiny_val."""
    output = tmp_path_factory.mktemp("tuned") / "out"
    return output, panoptic_fusion.tune(str(trained), output=output, folds=3, workers=2)


def test_files_and_the_start(tuned, trained):
    output, content = tuned
    files = {path.name for path in output.iterdir()} - {".lock"}
    assert files == {"best.yaml", "heads", "tuning.json", "tuning.md", "tuning.png"}
    assert content == json.loads((output / "tuning.json").read_text())
    assert (content["images"], content["folds"], content["dataset"]) == (3, 3, "tiny_val")
    rules = content["rules"]
    assert sorted(rules) == ["HeuristicFusion", "MaskGuidedFusion", "SeamlessFusion", "UPSNetFusion"]
    assert list(content["not_tuned"]) == ["SpatialRankingFusion"]
    # what evaluation says, but for the half precision of cached logits
    evaluated = json.loads((trained / "results.json").read_text())["panoptic_seg"]["PQ"]
    assert rules["HeuristicFusion"]["held_out"]["start"] == pytest.approx(evaluated, abs=0.5)
    assert content["choice"]["start"] == rules["HeuristicFusion"]["held_out"]["start"]
    for rule in rules.values():
        quality = dict(rule["curves"]["OVERLAP_THRESH"])
        assert rule["PQ_tuned_not_held_out"] == max(quality.values()) == quality[rule["tuned"]["OVERLAP_THRESH"]]
        assert rule["PQ_tuned_not_held_out"] >= rule["held_out"]["start"]


def test_best_yaml_evaluates_to_the_tuned_quality(tuned, trained, tmp_path, run_script):
    output, content = tuned
    text = (output / "best.yaml").read_text()
    command = next(line for line in text.splitlines() if line.startswith("#   "))
    words = command.split()[3:]
    assert words[:2] == ["--model", str(trained)]
    code, _, err = run_script("evaluate", *words, "OUTPUT_DIR", tmp_path)
    assert code == 0, err
    quality = json.loads((tmp_path / "results.json").read_text())["panoptic_seg"]["PQ"]
    best = content["rules"][yaml.safe_load(text)["MODEL"]["PANOPTIC_FUSION"]["NAME"]]
    assert quality == pytest.approx(best["PQ_tuned_not_held_out"], abs=0.5)


def test_the_second_run_does_not_run_the_network(tuned, trained, monkeypatch, run_script):
    output, content = tuned
    monkeypatch.setattr(heads, "heads_of_images", None)
    (cache,) = (output / "heads").iterdir()
    leftover = cache / ".7.npz.99999999.partial"  # of a killed run
    leftover.write_bytes(b"half")
    words = ("--model", trained, "--output", output, "--folds", "2", "--rule", "UPSNetFusion", "--workers", "1")
    code, out, err = run_script("tune", *words, "MODEL.PANOPTIC_FUSION.OVERLAP_THRESH", "0.35")
    assert code == 0, err
    content = json.loads((output / "tuning.json").read_text())
    assert sorted(content["rules"]) == ["HeuristicFusion", "UPSNetFusion"]  # the model's own rule is always compared
    assert all(rule["start"]["OVERLAP_THRESH"] == 0.35 for rule in content["rules"].values())
    assert (
        not leftover.exists()
        and (output / "tuning.md").read_text() in out
        and "best.yaml" in out
        and content["verdict"] in out
    )


def test_images_that_cannot_be_used_are_named(trained, tmp_path, monkeypatch, run_script):
    """A file that breaks after the start: the others are tuned, and the table says which one is missing."""
    real = heads.PanopticDatasetMapper.__call__
    broken = []

    def read(self, record):
        if len(broken) == 0 or record["image_id"] == broken[0]:
            broken[:] = [record["image_id"]]
            raise panoptic_fusion.errors.UserError(f"{record['file_name']}: cannot be decoded")
        return real(self, record)

    monkeypatch.setattr(heads.PanopticDatasetMapper, "__call__", read)
    words = ("--model", trained, "--output", tmp_path / "a", "--workers", "1", "--rule", "HeuristicFusion")
    code, out, err = run_script("tune", *words, "--folds", "2")
    assert code == 0, err
    assert "2 images" in out and "- left out: " in out and "cannot be decoded" in out
    code, _, err = run_script("tune", *words, "--folds", "3")
    assert code == 2 and "2 usable images are too few for 3 folds" in err and "cannot be decoded" in err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--folds", "1"], "--folds is 1: use 2 or more"),
        (["--folds", "4"], "--folds is 4, but there are only 3 images"),
        (["--num-images", "0"], "--num-images is 0"),
        (["--workers", "0"], "--workers is 0"),
        (["--rule", "Best"], "--rule: Best is not a fusion rule; available: HeuristicFusion"),
        (["--dataset", "none"], "dataset 'none' is not registered"),
        (["MODEL.META_ARCHITECTURE", "SemanticNetwork"], "rules can be tuned in a PanopticRCNN"),
    ],
)
def test_errors_before_any_work_starts(arguments, message, trained, tmp_path, monkeypatch, run_script):
    monkeypatch.setattr(study, "build_predictor", None)
    output = tmp_path / "out"
    code, _, err = run_script("tune", "--model", trained, "--output", output, *arguments)
    assert code == 2 and message in err and "Traceback" not in err and not os.path.exists(output)


def test_a_model_must_be_named(run_script, tmp_path):
    code, _, err = run_script("tune", "--output", tmp_path)
    assert code == 2 and "pass --model" in err

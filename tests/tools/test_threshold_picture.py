"""tools/threshold_picture.py: from trained models to curves of PQ that equal the evaluator's PQ."""

import json

import cv2
import pytest

from panoptic_fusion import evaluate


def test_curves_equal_the_evaluator(trained, run_script, tmp_path):
    words = ["--rule", "HeuristicFusion", "--rule", "MaskGuidedFusion", "--output", tmp_path / "out"]
    words += ["--values", "0.0", "0.5", "--models", "twice", trained, trained]
    code, out, err = run_script("tools/threshold_picture", *words)
    assert code == 0, err
    content = json.loads((tmp_path / "out" / "thresholds.json").read_text())
    first, second = content["PQ"]["twice"]
    assert first == second and set(first) == {"HeuristicFusion", "MaskGuidedFusion"}
    for rule, curve in first.items():
        opts = ["MODEL.PANOPTIC_FUSION.NAME", rule, "MODEL.PANOPTIC_FUSION.INSTANCES_CONFIDENCE_THRESH", "0.0"]
        results = evaluate(str(trained), opts=[*opts, "OUTPUT_DIR", str(tmp_path / rule)], report=False)
        assert curve[0] == pytest.approx(results["panoptic_seg"]["PQ"], abs=0.05)  # the cache has 16-bit logits
    assert "± 0.0" in out and out.strip() == (tmp_path / "out" / "thresholds.md").read_text().strip()
    assert cv2.imread(str(tmp_path / "out" / "thresholds.png")) is not None


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--rule", "NoRule"], "NoRule is not a fusion rule"),
        (["--rule", "HeuristicFusion", "--key", "NO_KEY"], "use one of INSTANCES_CONFIDENCE_THRESH"),
        (["--rule", "HeuristicFusion", "--key", "TASC.AGREEMENT_THRESH"], "HeuristicFusion has INSTANCES"),
        (["--rule", "HeuristicFusion", "--models", "alone"], "no folder follows the label"),
    ],
)
def test_wrong_words(trained, run_script, tmp_path, words, expected):
    code, _, err = run_script("tools/threshold_picture", "--models", "a", trained, "--output", tmp_path / "o", *words)
    assert code == 2 and expected in err

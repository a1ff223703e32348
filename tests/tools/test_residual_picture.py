"""tools/residual_picture.py: from a trained model to the mean residual and its pictures."""

import json

import cv2
import pytest


def test_from_a_model_to_pictures(trained, run_script, tmp_path):
    code, out, err = run_script(
        "tools/residual_picture", "--model", trained, "--dataset", "tiny_val", "--output", tmp_path, "--num-images", "2"
    )
    assert code == 0, err
    result = json.loads((tmp_path / "residual.json").read_text())
    assert result["images"] == len(result["per_image"]) == 3
    assert result["mean_residual"] == pytest.approx(sum(result["per_image"].values()) / 3)
    assert f"{result['mean_residual']:.4f}" in out
    pictures = sorted(tmp_path.glob("*.png"))
    assert len(pictures) == 3 and all(cv2.imread(str(p)) is not None for p in pictures)

    code, _, err = run_script(
        "tools/residual_picture", "--model", trained, "--dataset", "no_such", "--output", tmp_path / "b"
    )
    assert code == 2 and "no_such" in err and "tiny_val" in err

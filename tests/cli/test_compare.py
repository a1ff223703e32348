"""`panoptic-fusion compare` on a tiny trained model."""

import cv2
import numpy as np


def test_pictures_and_contact_sheet(run_script, trained, tmp_path):
    output = tmp_path / "pictures"
    code, out, err = run_script(
        "compare", "--model", trained, "--dataset", "tiny_val", "--output", output, "--num-images", "2"
    )
    assert code == 0, err
    assert "2 pictures" in out
    pictures = {p.name: cv2.imread(str(p)) for p in output.glob("*.png")}
    sheet = pictures.pop("all.png")
    assert len(pictures) == 2
    for picture in pictures.values():  # image, ground truth, prediction, all 4 times as large, with white lines between
        assert picture.shape == (4 * 96, 3 * 4 * 128 + 2 * 4, 3)
        assert not np.array_equal(picture[:, :512], picture[:, 516:1028])
    assert sheet.shape[0] >= 2 * 4 * 96


def test_unknown_data_set(run_script, trained, tmp_path):
    code, _, err = run_script("compare", "--model", trained, "--dataset", "no_such", "--output", tmp_path)
    assert code == 2 and "no_such" in err and "tiny_val" in err and "Traceback" not in err


def test_not_a_model(run_script, tmp_path):
    code, _, err = run_script("compare", "--model", tmp_path, "--dataset", "tiny_val", "--output", tmp_path / "out")
    assert code == 2 and "config.yaml" in err


def test_an_address_of_weights_needs_a_flag(run_script, trained, tmp_path):
    words = ["compare", "--model", trained, "--dataset", "tiny_val", "--output", tmp_path / "out", "--opts"]
    code, _, err = run_script(*words, "MODEL.WEIGHTS", "https://example.org/a.pth")
    assert code == 2 and "--allow-download" in err and not (tmp_path / "out").exists()

"""`panoptic-fusion compare` on a tiny trained model."""

import cv2
import numpy as np
import pytest
import yaml

from panoptic_fusion.cli.compare import contact_sheet


def test_pictures_and_contact_sheet(run_script, trained, tmp_path):
    output = tmp_path / "pictures"
    code, out, err = run_script(
        "compare", "--model", trained, "--dataset", "tiny_val", "--output", output, "--num-images", "2"
    )
    assert code == 0, err
    assert "2 pictures" in out
    pictures = {p.name: cv2.imread(str(p)) for p in output.glob("*.jpg")}
    sheet = pictures.pop("all.jpg")
    assert len(pictures) == 2
    for picture in pictures.values():  # image, ground truth, prediction, all 4 times as large, with white lines between
        assert picture.shape == (4 * 96, 3 * 4 * 128 + 2 * 4, 3)
        assert not np.array_equal(picture[:, :512], picture[:, 516:1028])
    assert sheet.shape[0] >= 2 * 4 * 96


def test_a_large_contact_sheet_is_reduced():
    """20 panels of 4096 x 1000 pixels are reduced to as many pixels as 4096 x 4096, in their order."""
    panels = [np.full((994, 4096, 3), 10 * number, np.uint8) for number in range(20)]
    sheet = contact_sheet(panels)
    assert 0.98 * 4096**2 <= sheet.shape[0] * sheet.shape[1] <= 1.02 * 4096**2
    height = sheet.shape[0] / 20
    assert [int(sheet[int((n + 0.5) * height), 5, 0]) for n in range(20)] == [10 * n for n in range(20)]
    assert contact_sheet(panels[:1]).shape == (1000, 4096, 3)


def test_unknown_data_set(run_script, trained, tmp_path):
    code, _, err = run_script("compare", "--model", trained, "--dataset", "no_such", "--output", tmp_path)
    assert code == 2 and "no_such" in err and "tiny_val" in err and "Traceback" not in err


def test_data_set_that_is_not_on_this_machine(run_script, trained, tmp_path):
    """The message has the path: "not registered" would contradict the model's config, which names the dataset."""
    config = yaml.safe_load((trained / "config.yaml").read_text())
    (entry,) = (entry for entry in config["DATASETS"]["REGISTER"] if entry["name"] == "tiny_val")
    config["DATASETS"]["REGISTER"] = [{**entry, "name": "moved_val", "panoptic_json": "moved/panoptic.json"}]
    config["DATASETS"]["TRAIN"], config["DATASETS"]["TEST"] = ["moved_val"], ["moved_val"]
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.yaml").write_text(yaml.safe_dump(config))
    (model / "model_final.pth").symlink_to(trained / "model_final.pth")
    for command, option in (
        ("compare", ["--dataset", "moved_val"]),
        ("tune", []),
        ("oracle", ["--dataset", "moved_val"]),
    ):
        code, _, err = run_script(command, "--model", model, *option, "--output", tmp_path / "out")
        assert code == 2 and "moved/panoptic.json (DATASETS.REGISTER) does not exist" in err, command
        assert "not registered" not in err and "Traceback" not in err


def test_not_a_model(run_script, tmp_path):
    code, _, err = run_script("compare", "--model", tmp_path, "--dataset", "tiny_val", "--output", tmp_path / "out")
    assert code == 2 and "config.yaml" in err


def test_an_address_of_weights_needs_a_flag(run_script, trained, tmp_path):
    words = ["compare", "--model", trained, "--dataset", "tiny_val", "--output", tmp_path / "out", "--opts"]
    code, _, err = run_script(*words, "MODEL.WEIGHTS", "https://example.org/a.pth")
    assert code == 2 and "--allow-download" in err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["compare", "demo"])
def test_a_network_without_a_panoptic_output(run_script, trained, tmp_path, command):
    """The weights are not even read."""
    folder = tmp_path / "model"
    folder.mkdir()
    config = yaml.safe_load((trained / "config.yaml").read_text())
    config["MODEL"]["META_ARCHITECTURE"] = "InstanceNetwork"
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "model_final.pth").symlink_to(trained / "model_final.pth")
    data = ["--dataset", "tiny_val"] if command == "compare" else ["--input", tmp_path / "*.jpg"]
    if command == "demo":
        cv2.imwrite(str(tmp_path / "a.jpg"), np.zeros((8, 8, 3), np.uint8))
    code, _, err = run_script(command, "--model", folder, *data, "--output", tmp_path / "out")
    assert code == 2 and f"{folder}: MODEL.META_ARCHITECTURE is InstanceNetwork, which has no panoptic output" in err

"""`panoptic-fusion evaluate` on the files of any model: results, subsets, hostile names, and words that do not fit."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from panoptic_cases import coco_categories, random_pair, write_prediction_files

import panoptic_fusion
from panoptic_fusion.cli.evaluate import listed_images
from panoptic_fusion.errors import UserError


@pytest.fixture
def files(tmp_path) -> dict[str, str]:
    rng = np.random.default_rng(5)
    pairs = [random_pair(rng, empty_gt_segments=False) for _ in range(12)]
    return write_prediction_files(tmp_path, pairs, coco_categories())


def words_of(files: dict[str, str]) -> list[str]:
    return [word for name, path in files.items() for word in (f"--{name.replace('_', '-')}", path)]


def change(path: str, how) -> None:
    content = json.loads(Path(path).read_text())
    how(content)
    Path(path).write_text(json.dumps(content))


def test_the_command_writes_what_the_function_returns(run_script, files, tmp_path):
    out = tmp_path / "out"
    code, shown, err = run_script("evaluate", *words_of(files), "--output", out, "--workers", 2)
    assert code == 0, err
    result = panoptic_fusion.evaluate_files(**files, processes=1)
    content = json.loads((out / "results.json").read_text())
    assert content["all"] == pytest.approx(result["all"]) and content["status"]["scored"] == 12
    assert set(content["by_size"]) == {"small", "medium", "large"} and len(content["per_class"]) == 8
    assert "12 images" in shown and "12 scored, 0 no prediction" in shown
    assert shown.split("\n\n")[0] in (out / "results.md").read_text()
    with open(out / "images.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["file_name"] for row in rows] == [f"{i:03d}.jpg" for i in range(12)]
    assert [int(row["TP"]) for row in rows] == [row["TP"] for row in result["per_image"]]


def test_a_subset_by_ids_names_and_a_list(run_script, files, tmp_path):
    (tmp_path / "some.txt").write_text("004.jpg\n\n7\n")
    words = [*words_of(files), "--output", tmp_path / "out", "--workers", 1, "--images", "1", tmp_path / "some.txt"]
    code, _, err = run_script("evaluate", *words)
    assert code == 0, err
    assert json.loads((tmp_path / "out/results.json").read_text())["images"] == 3
    code, _, err = run_script("evaluate", *words, "none.jpg")
    assert code == 2 and "has no image 'none.jpg'" in err and "Traceback" not in err
    with pytest.raises(UserError, match=r"none\.txt: not a readable text file"):
        listed_images(["none.txt"])


def test_missing_and_bad_predictions_are_counted_and_named(run_script, files, tmp_path):
    change(files["pred_json"], lambda content: content["annotations"].pop(0))
    Path(files["pred_root"], "001.png").write_bytes(b"no PNG")
    code, shown, err = run_script("evaluate", *words_of(files), "--output", tmp_path / "out", "--workers", 1)
    assert code == 0 and "10 scored, 1 no prediction, 1 invalid prediction, 0 left out" in shown, err
    assert "- 000.jpg: no prediction" in shown
    content = json.loads((tmp_path / "out/results.json").read_text())
    assert (content["images"], content["status"]["no prediction"]) == (12, 1)
    assert content["problems"][0] == "000.jpg: no prediction" and "001.png" in content["problems"][1]


def test_images_of_other_ids_are_paired_by_file_name(files):
    """Only where the name is unique, and only if no id is one of the ground truth."""
    expected = panoptic_fusion.evaluate_files(**files, processes=1)

    def renumber(content):
        names = {i: f"folder/{i:03d}.jpg" for i in range(12)}
        content["images"] = [{"id": f"x{i}", "file_name": names[i], "height": 1, "width": 1} for i in range(12)]
        for annotation in content["annotations"]:
            annotation["image_id"] = f"x{annotation['image_id']}"

    change(files["pred_json"], renumber)
    found = panoptic_fusion.evaluate_files(**files, processes=1)
    assert found["all"] == pytest.approx(expected["all"]) and found["problems"] == []

    change(files["pred_json"], lambda content: content["images"][3].update(file_name="folder/004.jpg"))
    found = panoptic_fusion.evaluate_files(**files, processes=1)
    missing = [row["file_name"] for row in found["per_image"] if row["status"] == "no prediction"]
    assert missing == ["003.jpg", "004.jpg"]

    change(files["pred_json"], lambda content: content["annotations"][0].update(image_id=0))
    assert panoptic_fusion.evaluate_files(**files, processes=1)["status"]["no prediction"] == 11


HOSTILE = ["a|b", "two\nlines", "<img src=x onerror=alert(1)>", 'say "x", y', "half \ud800 \udc80", "**x** [y](z)"]


def test_hostile_names_of_classes_and_files(run_script, files, tmp_path):
    def rename(content):
        for category, name in zip(content["categories"], HOSTILE, strict=False):
            category["name"] = name
        for image, name in zip(content["images"], [*HOSTILE[:4], "raw \udc80.jpg"], strict=False):
            image["file_name"] = name

    change(files["gt_json"], rename)
    change(files["pred_json"], lambda content: content["annotations"].clear())  # each file is named as a problem
    code, shown, err = run_script("evaluate", *words_of(files), "--output", tmp_path / "out", "--workers", 1)
    assert code == 0 and "Traceback" not in err, err
    table = (tmp_path / "out/results.md").read_text(encoding="utf-8")
    assert "a\\|b" in table and "two lines" in table and "<img" not in table and "**x**" not in table
    with open(tmp_path / "out/images.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["file_name"] for row in rows[:4]] == HOSTILE[:4] and len(rows) == 12
    assert set(HOSTILE) <= set(json.loads((tmp_path / "out/results.json").read_text())["per_class"])


@pytest.mark.parametrize("which", ["gt_json", "pred_json"])
@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"annotations": 3}'])
def test_a_json_that_cannot_be_used_is_one_line(run_script, files, tmp_path, which, content):
    Path(files[which]).unlink()
    if content is not None:
        Path(files[which]).write_text(content)
    code, _, err = run_script("evaluate", *words_of(files), "--output", tmp_path / "out", "--workers", 1)
    assert code == 2 and Path(files[which]).name in err and "Traceback" not in err
    assert err.count("panoptic-fusion evaluate: error") == 1


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (["--model", "m"], "leave out --model"),
        (["TEST.X", "1"], "leave out TEST.X"),
        (["--workers", "0"], "--workers is 0"),
        (["--pred-root", ""], "also needs --pred-root"),
        (["--pred-root", "none"], "none is not a folder"),
        (["--num-gpus", "2"], "leave out --num-gpus"),
        (["--images", "empty.txt"], "list of images is empty"),
    ],
)
def test_words_that_do_not_fit(run_script, files, tmp_path, monkeypatch, extra, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("\n")
    code, _, err = run_script("evaluate", *words_of(files), "--output", tmp_path / "out", *extra)
    assert code == 2 and says in err and "Traceback" not in err and len(err.splitlines()) == 1


def test_an_output_that_is_a_file_is_refused_first(run_script, files, tmp_path):
    (tmp_path / "out").write_text("mine")
    code, _, err = run_script("evaluate", *words_of(files), "--output", tmp_path / "out")
    assert code == 2 and "--output" in err and (tmp_path / "out").read_text() == "mine"

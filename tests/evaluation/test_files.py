"""Scoring the files of any model: by hand, against arrays, and with files that are missing or bad."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from panoptic_cases import NUM_STUFF, NUM_THINGS, coco_categories, random_pair, write_id_png, write_prediction_files

from panoptic_fusion.errors import UserError
from panoptic_fusion.evaluation import files
from panoptic_fusion.evaluation.files import evaluate_files
from panoptic_fusion.evaluation.panoptic_quality import PanopticQuality


@pytest.fixture
def pairs():
    rng = np.random.default_rng(3)
    return [random_pair(rng, empty_gt_segments=False) for _ in range(20)]


def quality_of(pairs) -> dict:
    quality = PanopticQuality(NUM_THINGS, NUM_STUFF)
    for pair in pairs:
        quality.update(pair.pred_map, {s[0]: s[1] for s in pair.pred_segments}, pair.gt_map, pair.gt_segments)
    return quality.compute()


@pytest.mark.parametrize("processes", [1, 2])
def test_files_score_as_arrays_do(tmp_path, pairs, processes):
    result = evaluate_files(**write_prediction_files(tmp_path, pairs, coco_categories()), processes=processes)
    expected = quality_of(pairs)
    assert result["images"] == 20 and result["problems"] == []
    for group in ("all", "things", "stuff"):
        for key, name in (("pq", "PQ"), ("sq", "SQ"), ("rq", "RQ"), ("pq_dagger", "PQ_dagger"), ("miou", "mIoU")):
            assert result[group][name] == pytest.approx(100 * expected[group][key], nan_ok=True)
        assert [result[group][k] for k in ("TP", "FP", "FN")] == [expected[group][k] for k in ("tp", "fp", "fn")]
    for row, other in zip(result["per_class"].values(), expected["per_class"], strict=True):
        assert row["PQ"] == pytest.approx(100 * other["pq"], nan_ok=True)
    for row, pair in zip(result["per_image"], pairs, strict=True):
        assert row["PQ"] == pytest.approx(100 * quality_of([pair])["all"]["pq"], nan_ok=True)
    sizes = result["by_size"].values()
    assert sum(size["all"]["FP"] for size in sizes) == result["all"]["FP"]  # each segment has one size
    assert sum(size["all"]["TP"] + size["all"]["FN"] for size in sizes) == result["all"]["TP"] + result["all"]["FN"]


def test_a_missing_prediction_counts_as_an_empty_one(tmp_path, pairs):
    arguments = write_prediction_files(tmp_path, pairs, coco_categories())
    content = json.loads(Path(arguments["pred_json"]).read_text())
    content["annotations"] = content["annotations"][1:]
    Path(arguments["pred_json"]).write_text(json.dumps(content))
    result = evaluate_files(**arguments, processes=1)
    pairs[0].pred_map[:], pairs[0].pred_segments[:] = 0, []
    assert result["all"]["FN"] == quality_of(pairs)["all"]["fn"]
    assert result["problems"] == ["000.jpg: no prediction"]
    assert result["status"] == {"scored": 19, "no prediction": 1, "invalid prediction": 0, "left out": 0}


def test_bad_files_are_named_and_the_rest_is_scored(tmp_path, pairs):
    arguments = write_prediction_files(tmp_path, pairs, coco_categories())
    (tmp_path / "pred/001.png").write_bytes(b"not a PNG")
    write_id_png(tmp_path / "pred/002.png", np.zeros((2, 3), np.int32))
    (tmp_path / "gt/003.png").unlink()
    result = evaluate_files(**arguments, processes=1)
    assert result["images"] == 19
    assert [text.split(":")[0] for text in result["problems"]] == ["001.jpg", "002.jpg", "003.jpg"]
    assert "pred/001.png" in result["problems"][0] and "2x3" in result["problems"][1]
    assert "left out" in result["problems"][2] and "gt/003.png" in result["problems"][2]
    assert result["status"] == {"scored": 17, "no prediction": 0, "invalid prediction": 2, "left out": 1}


def test_entries_of_the_predictions_that_cannot_be_used(tmp_path, pairs):
    arguments = write_prediction_files(tmp_path, pairs[:3], coco_categories())
    content = json.loads(Path(arguments["pred_json"]).read_text())
    content["annotations"] += [{"image_id": 77, "file_name": "x.png", "segments_info": []}, {"image_id": 1}, "text"]
    content["annotations"][0]["segments_info"].append({"id": 5, "category_id": 4711})
    Path(arguments["pred_json"]).write_text(json.dumps(content))
    problems = evaluate_files(**arguments, processes=1)["problems"]
    assert all("pred.json" in text for text in problems) and len(problems) == 4
    assert "4711" in problems[0] and "annotations[4]" in problems[1] and "image_id 77" in problems[3]


def test_a_subset_of_images_by_id_and_by_name(tmp_path, pairs):
    arguments = write_prediction_files(tmp_path, pairs, coco_categories())
    result = evaluate_files(**arguments, processes=1, images=["3", "007.jpg"])
    assert result["all"]["PQ"] == pytest.approx(100 * quality_of([pairs[3], pairs[7]])["all"]["pq"], nan_ok=True)
    with pytest.raises(UserError, match="no image 'nine.jpg'"):
        evaluate_files(**arguments, processes=1, images=["nine.jpg"])
    with pytest.raises(UserError, match="images is the text '12': pass a list"):  # not the images 1 and 2
        evaluate_files(**arguments, processes=1, images="12")


def test_the_files_of_the_results(tmp_path, pairs):
    categories = coco_categories()
    categories[0]["name"] = "a|b <img src=x onerror=alert(1)>"
    output = tmp_path / "new" / "out"
    arguments = write_prediction_files(tmp_path, pairs, categories)
    for _ in range(2):  # into a new folder, and over its own results
        result = evaluate_files(**arguments, processes=1, output=output)
    content = json.loads((output / "results.json").read_text())
    assert content["all"]["PQ"] == pytest.approx(result["all"]["PQ"]) and content["images"] == 20
    rows = (output / "images.csv").read_text().splitlines()
    assert len(rows) == 21 and rows[0].startswith("image_id,file_name,PQ,SQ,RQ,PQ_dagger,mIoU,boundary_PQ,TP,FP,FN")
    table = (output / "results.md").read_text()
    assert "<img" not in table.replace(r"\<img", "") and "a|b" not in table


def test_equal_to_panopticapi_on_the_same_files(tmp_path):
    evaluation = pytest.importorskip("panopticapi.evaluation", reason="the reference code is not installed")
    rng = np.random.default_rng(11)
    pairs = [random_pair(rng, empty_gt_segments=False) for _ in range(50)]
    categories = coco_categories()
    arguments = write_prediction_files(tmp_path, pairs, categories)
    truth, predictions = (json.loads(Path(arguments[key]).read_text()) for key in ("gt_json", "pred_json"))
    both = list(zip(truth["annotations"], predictions["annotations"], strict=True))
    by_id = {category["id"]: category for category in categories}
    stat = evaluation.pq_compute_single_core(0, both, arguments["gt_root"], arguments["pred_root"], by_id)
    _, per_class = stat.pq_average(by_id, None)
    result = evaluate_files(**arguments, processes=1)
    for category in categories:
        row, theirs, counts = result["per_class"][category["name"]], per_class[category["id"]], stat[category["id"]]
        assert (row["TP"], row["FP"], row["FN"]) == (counts.tp, counts.fp, counts.fn)
        if counts.tp + counts.fp + counts.fn:
            assert [row[key] for key in ("PQ", "SQ", "RQ")] == pytest.approx(
                [100 * theirs[key] for key in ("pq", "sq", "rq")], abs=1e-11
            )
        else:
            assert np.isnan(row["PQ"])  # panopticapi has 0 where a class does not occur, and leaves it out as well
    for group, isthing in (("all", None), ("things", True), ("stuff", False)):
        average, _ = stat.pq_average(by_id, isthing)
        for key in ("pq", "sq", "rq"):
            assert result[group][key.upper()] == pytest.approx(100 * average[key], abs=1e-11)
    assert result["all"]["TP"] > 10  # the comparison is not of zeros


def test_without_boundary_pq_all_else_is_equal(tmp_path, pairs):
    arguments = write_prediction_files(tmp_path, pairs, coco_categories())
    plain = evaluate_files(**arguments, processes=1, boundary=False, output=tmp_path / "out")
    full = evaluate_files(**arguments, processes=1)

    def without_boundary(row: dict) -> dict:
        return {key: value for key, value in row.items() if not key.startswith("boundary")}

    for key in ("all", "things", "stuff"):
        assert plain[key] == pytest.approx(without_boundary(full[key]), nan_ok=True)
    for name, row in full["per_class"].items():
        assert plain["per_class"][name] == pytest.approx(without_boundary(row), nan_ok=True)
    assert "boundary" not in (tmp_path / "out/results.md").read_text()
    assert "boundary" not in (tmp_path / "out/images.csv").read_text()


def test_invalid_ground_truth_is_left_out_whatever_the_prediction_is(tmp_path, pairs):
    arguments = write_prediction_files(tmp_path, pairs[:6], coco_categories())
    truth = json.loads(Path(arguments["gt_json"]).read_text())
    for name in ("001", "002", "003"):
        write_id_png(tmp_path / f"gt/{name}.png", np.full((24, 32), 4711, np.int32))  # an id without a segment
    (tmp_path / "pred/002.png").unlink()
    predicted = json.loads(Path(arguments["pred_json"]).read_text())
    predicted["annotations"] = [entry for entry in predicted["annotations"] if entry["image_id"] != 3]
    del truth["annotations"][4]
    Path(arguments["gt_json"]).write_text(json.dumps(truth))
    Path(arguments["pred_json"]).write_text(json.dumps(predicted))
    result = evaluate_files(**arguments, processes=1)
    assert result["status"] == {"scored": 2, "no prediction": 0, "invalid prediction": 0, "left out": 3}
    assert result["all"]["PQ"] == pytest.approx(100 * quality_of([pairs[0], pairs[5]])["all"]["pq"], nan_ok=True)
    assert all("left out" in text for text in result["problems"]) and "004.jpg" in result["problems"][0]


@pytest.mark.parametrize("key", ["gt_root", "pred_root"])
def test_a_folder_that_does_not_exist_is_one_error(tmp_path, pairs, key):
    arguments = {**write_prediction_files(tmp_path, pairs[:2], coco_categories()), key: str(tmp_path / "none")}
    with pytest.raises(UserError, match="none is not a folder"):
        evaluate_files(**arguments, processes=1)


def killed(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_is_one_error(tmp_path, pairs, monkeypatch):
    monkeypatch.setattr(files, "score_image", killed)
    with pytest.raises(UserError, match="a process was killed.*--workers"):
        evaluate_files(**write_prediction_files(tmp_path, pairs, coco_categories()), processes=2)


def test_many_problems_are_counted_in_the_table_and_listed_in_the_json(tmp_path, pairs):
    arguments = write_prediction_files(tmp_path, pairs * 3, coco_categories())
    Path(arguments["pred_json"]).write_text('{"annotations": []}')
    evaluate_files(**arguments, processes=1, output=tmp_path / "out")
    table = (tmp_path / "out/results.md").read_text()
    assert "60 no prediction" in table and "and 10 more" in table and table.count("- 0") == 50
    assert len(json.loads((tmp_path / "out/results.json").read_text())["problems"]) == 60

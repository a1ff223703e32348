"""`panoptic-fusion report`, and the reports that other commands write."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from panoptic_cases import coco_categories, random_pair, write_prediction_files
from PIL import Image
from report_data import pixels_of, read_image, read_report

import panoptic_fusion
from panoptic_fusion.cli import child, main
from panoptic_fusion.cli.report import names_of
from panoptic_fusion.data.annotation import read_id_map
from panoptic_fusion.data.coco_panoptic import get_label_space


@pytest.fixture
def files(tmp_path) -> dict[str, str]:
    rng = np.random.default_rng(5)
    pairs = [random_pair(rng, empty_gt_segments=False) for _ in range(4)]
    (tmp_path / "photos").mkdir()
    return write_prediction_files(tmp_path, pairs, coco_categories())


@pytest.fixture
def in_this_process(monkeypatch) -> list[tuple[str, ...]]:
    """The commands that a report starts run here; what was started."""
    started = []

    def run(*words: str) -> int:
        started.append(words)
        with pytest.raises(SystemExit) as exit_info:
            main(words)
        return exit_info.value.code

    monkeypatch.setattr(child, "run", run)
    return started


def truth_of(files) -> list[str]:
    return ["--gt-json", files["gt_json"], "--gt-root", files["gt_root"]]


def test_files_of_two_predictions(run_script, files, tmp_path):
    out = tmp_path / "out"
    words = [*truth_of(files), "--pred-json", files["pred_json"], "--pred-root", files["pred_root"]]
    words += ["--pred-json", files["gt_json"], "--pred-root", files["gt_root"]]
    code, shown, err = run_script("report", *words, "--output", out, "--title", "Both", "--workers", 1)
    assert code == 0, err
    assert shown.splitlines()[-1] == f"Report: {out}/report.html" and "gt: PQ 100.00, 4 images" in shown
    index = read_report(out / "report.html")
    assert index["title"] == "Both" and [p["name"] for p in index["predictions"]] == ["pred", "gt"]
    expected = panoptic_fusion.evaluate_files(**files, processes=1)
    assert index["predictions"][0]["summary"]["All"]["pq"] == expected["all"]["PQ"]
    code, shown, err = run_script("report", *words, "--output", out, "--name", "a", "--name", "b", "--images", "2")
    assert code == 0 and [p["name"] for p in read_report(out / "report.html")["predictions"]] == ["a", "b"], err
    predictions = {"function": (files["pred_json"], files["pred_root"])}
    written = panoptic_fusion.report(files["gt_json"], files["gt_root"], predictions, out, processes=1)
    assert written["page"] == out / "report.html" and written["results"]["function"]["images"] == 4


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--gt-json", "a"], "a report of files needs --gt-root, --pred-json"),
        (["--pred-json", "a"], "1 --pred-json need as many --pred-root, but have 0"),
        (["--model", "a", "--gt-json", "b"], "--model brings its own dataset: leave out --gt-json"),
        (["--model", "a", "--name", "b", "--name", "c"], "2 --name are given for 1 predictions"),
        (["--model", "a", "--model", "b", "--name", "c", "--name", "c"], "two predictions have the same --name"),
        (["--model", "a", "--model", "./a"], "two predictions are the same"),
        (["--model", "no/model"], "no/model"),
        (["--workers", "0", "--model", "a"], "--workers is 0"),
    ],
)
def test_words_that_do_not_fit(run_script, tmp_path, words, error):
    code, _, err = run_script("report", *words, "--output", tmp_path / "out")
    assert code == 2 and error in err and "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_names_are_as_short_as_they_can_be():
    assert names_of(["runs/a/panoptic.json", "runs/b/panoptic.json"]) == ["a/panoptic", "b/panoptic"]
    assert names_of(["runs/a.json", "other/b.json"]) == ["a", "b"]
    assert names_of(["runs/v1.0", "runs/v1.1"]) == ["v1.0", "v1.1"]
    assert names_of(["a", "a.json"]) == ["a", "a"] and names_of([]) == []


def test_an_evaluation_of_a_model_writes_its_report(run_script, trained, tiny_data, tmp_path):
    out = tmp_path / "out"
    code, shown, err = run_script("evaluate", "--model", trained, "OUTPUT_DIR", out)
    page = out / "inference" / "tiny_val" / "report.html"
    assert code == 0 and shown.splitlines()[-1] == f"Report: {page}", err
    results = json.loads((out / "results.json").read_text())["panoptic_seg"]
    index = read_report(page)
    summary = index["predictions"][0]["summary"]
    for group, suffix in (("All", ""), ("Things", "_th"), ("Stuff", "_st")):
        for key in ("PQ", "SQ", "RQ", "PQ_dagger", "mIoU", "TP", "FP", "FN"):
            assert summary[group][key.lower()] == pytest.approx(results[f"{key}{suffix}"])
    for category in index["categories"]:
        assert category["results"][0]["pq"] == pytest.approx(results[f"PQ-{category['name']}"])
    assert all(image["photo"] and image["size"] == [96, 128] for image in index["images"])
    code, shown, err = run_script("evaluate", "--model", trained, "--no-report", "OUTPUT_DIR", tmp_path / "without")
    assert code == 0 and "Report" not in shown and not list((tmp_path / "without").rglob("report*")), err
    code, shown, err = run_script("evaluate", "--model", trained, "--no-report", "OUTPUT_DIR", out)
    assert code == 0 and shown.splitlines()[-1] == f"{page} shows an earlier evaluation", err


def test_an_evaluation_on_a_dataset_of_other_code_has_no_report(run_script, trained, tiny_cfg, tmp_path):
    """Its images and classes are registered, but no COCO panoptic files."""
    name, dicts = "by_other_code", DatasetCatalog.get("tiny_val")
    DatasetCatalog.register(name, lambda: dicts)
    get_label_space("tiny_val").apply_to_metadata(MetadataCatalog.get(name))
    opts = ["DATASETS.TEST", f"('{name}',)", "TEST.EVALUATORS", "['panoptic']", "OUTPUT_DIR", tmp_path / "out"]
    code, shown, err = run_script("evaluate", "--model", trained, *opts)
    assert code == 0 and shown.splitlines()[-1].startswith(f"{name}: no report, since"), err


def test_models_are_compared(run_script, trained, tmp_path, in_this_process):
    """Each model is evaluated once; a second run only writes the page."""
    out = tmp_path / "out"
    words = ["--model", trained, "--name", "one", "--model", trained, "--name", "two/", "--output", out]
    for _ in range(2):
        code, shown, err = run_script("report", *words)
        assert code == 0 and shown.splitlines()[-1] == f"Report: {out}/report.html", err
    assert [words[0] for words in in_this_process] == ["evaluate", "evaluate"]
    index = read_report(out / "report.html")
    assert [p["name"] for p in index["predictions"]] == ["one", "two/"]
    assert index["compare"][0]["delta"]["pq"] == 0 and index["compare"][0]["images"] == []
    results = json.loads((trained / "results.json").read_text())["panoptic_seg"]
    assert index["predictions"][0]["summary"]["All"]["pq"] == pytest.approx(results["PQ"])


def test_a_model_is_evaluated_again_if_its_images_weights_or_config_changed(
    run_script, trained, tiny_data, tmp_path, in_this_process, monkeypatch
):
    model, images = tmp_path / "model", tmp_path / "images"
    shutil.copytree(trained, model)
    shutil.copytree(tiny_data["val"]["images"], images)
    files = {**tiny_data["val"], "name": "moved_val", "images": str(images)}
    opts = ["DATASETS.REGISTER", str([files]), "DATASETS.TEST", "('moved_val',)"]

    def number_of_evaluations():
        in_this_process.clear()
        code, _, err = run_script("report", "--model", model, "--output", tmp_path / "out", *opts)
        assert code == 0, err
        return len(in_this_process)

    def change_an_image():
        path = next(images.iterdir())
        Image.new("RGB", (128, 96)).save(path)

    def change_the_weights():
        os.utime(model / "model_final.pth", ns=(1, 1))

    def change_the_config():
        text = (model / "config.yaml").read_text()
        (model / "config.yaml").write_text(text.replace("DETECTIONS_PER_IMAGE: 100", "DETECTIONS_PER_IMAGE: 1"))

    assert [number_of_evaluations() for _ in range(2)] == [1, 0]
    for change in (change_an_image, change_the_weights, change_the_config):
        change()
        assert [number_of_evaluations() for _ in range(2)] == [1, 0], change

    shutil.copytree(images, tmp_path / "before")  # with the times of the files
    change_an_image()
    with monkeypatch.context() as patch:
        patch.setattr(child, "run", lambda *words: 3)  # killed, when some predictions had been replaced
        code, _, err = run_script("report", "--model", model, "--output", tmp_path / "out", *opts)
        assert code == 2 and "failed with exit code 3" in err
    shutil.copytree(tmp_path / "before", images, dirs_exist_ok=True)
    assert [number_of_evaluations() for _ in range(2)] == [1, 0]


def test_an_evaluation_of_files_with_photos(run_script, files, tmp_path):
    out = tmp_path / "out"
    words = [word for name, path in files.items() for word in (f"--{name.replace('_', '-')}", path)]
    code, shown, err = run_script("evaluate", *words, "--output", out, "--photos", tmp_path / "photos", "--workers", 1)
    assert code == 0 and shown.splitlines()[-1] == f"Report: {out}/report.html", err
    results = json.loads((out / "results.json").read_text())
    index = read_report(out / "report.html")
    assert index["predictions"][0]["summary"]["All"]["pq"] == results["all"]["PQ"]
    for category in index["categories"]:
        assert category["results"][0]["pq"] == results["per_class"][category["name"]]["PQ"]


def test_the_overview_of_a_checked_dataset(run_script, tiny_data, tmp_path):
    paths = [
        f"--{key.replace('_', '-')}={tiny_data['train'][key]}" for key in ("images", "panoptic_root", "panoptic_json")
    ]
    code, shown, err = run_script("check", *paths, "--workers", 0, "--output", tmp_path / "out")
    page = tmp_path / "out" / "report.html"
    assert code == 0 and f"Report: {page}" in shown, err
    index = read_report(page)
    content = json.loads(Path(tiny_data["train"]["panoptic_json"]).read_text())
    segments = [s for a in content["annotations"] for s in a["segments_info"]]
    for category in index["categories"]:
        areas = [s["area"] for s in segments if s["category_id"] == category["id"]]
        assert (category["segments"], category["pixels"]) == (len(areas), sum(areas))
    assert index["predictions"] == [] and 0 < len(index["images"]) <= 6
    assert index["title"].endswith(f" ({len(index['images'])} of 6 images)")
    assert read_image(page, "000001")["predictions"] == []


def test_the_report_of_the_demo(run_script, trained, tiny_data, tmp_path):
    """Predictions without ground truth: the maps and scores, but no numbers."""
    out, [photo, *_] = tmp_path / "out", sorted(Path(tiny_data["val"]["images"]).glob("*.jpg"))
    code, shown, err = run_script("demo", "--model", trained, "--input", photo, "--output", out)
    assert code == 0 and f"Report: {out}/report.html" in shown, err
    index, data = read_report(out / "report.html"), read_image(out / "report.html", "000001")
    assert [set(prediction) for prediction in index["predictions"]] == [{"name"}]
    assert index["images"][0]["photo"] and "pq" not in index["images"][0]
    assert data["ground_truth"] is None and data["predictions"][0]["errors"] is None
    [annotation] = json.loads((out / "panoptic.json").read_text())["annotations"]
    labels, ids = pixels_of(data["predictions"][0]["map"]), read_id_map(str(out / annotation["file_name"]))
    for segment, shown_segment in zip(annotation["segments_info"], data["predictions"][0]["segments"], strict=True):
        np.testing.assert_array_equal(labels == shown_segment["n"], ids == segment["id"])
        assert shown_segment["score"] == segment.get("score") and shown_segment["kind"] is None

"""Reports: what the page gets equals the scores and the files; texts stay texts; bad files and killed runs."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from panoptic_cases import coco_categories, random_pair, write_id_png, write_prediction_files
from PIL import Image
from report_data import pixels_of, read_image, read_report, read_script

from panoptic_fusion.data.image_file import read_rgb
from panoptic_fusion.errors import UserError
from panoptic_fusion.evaluation.files import evaluate_files
from panoptic_fusion.evaluation.matching import count_image
from panoptic_fusion.evaluation.report import image as image_module
from panoptic_fusion.evaluation.report.errors import classify_errors
from panoptic_fusion.evaluation.report.javascript import write_script
from panoptic_fusion.evaluation.report.write import write_report

COUNT = 10


@pytest.fixture
def pairs():
    rng = np.random.default_rng(4)
    return [random_pair(rng, empty_gt_segments=False) for _ in range(COUNT)]


@pytest.fixture
def files(tmp_path, pairs) -> dict[str, str]:
    """Ground truth, predictions with scores, a second prediction that is the ground truth, and photos."""
    files = write_prediction_files(tmp_path, pairs, coco_categories())
    content = json.loads(Path(files["pred_json"]).read_text())
    for annotation in content["annotations"]:
        for segment in annotation["segments_info"][::2]:
            segment["score"] = round(1 / (1 + segment["id"]), 3)
    Path(files["pred_json"]).write_text(json.dumps(content))
    (tmp_path / "photos").mkdir()
    for i, pair in enumerate(pairs):
        Image.fromarray(np.full((*pair.gt_map.shape, 3), 20 * i, np.uint8)).save(tmp_path / f"photos/{i:03d}.jpg")
    return files


def write(files, output, *, twice=False, **options):
    """Writes a report of the prediction "mine", with `twice` also of the ground truth as "perfect"."""
    predictions = {"mine": (files["pred_json"], files["pred_root"])}
    if twice:
        predictions["perfect"] = (files["gt_json"], files["gt_root"])
    options = {"photos": Path(files["gt_json"]).with_name("photos"), "processes": 1, **options}
    return write_report(files["gt_json"], files["gt_root"], predictions, output, **options)


def test_the_numbers_are_those_of_an_evaluation(files, tmp_path):
    written = write(files, tmp_path / "out", twice=True, processes=2)
    assert written["page"] == tmp_path / "out" / "report.html" and written["problems"] == []
    expected = evaluate_files(**files, processes=1)
    assert json.dumps(written["results"]["mine"]) == json.dumps(expected)
    index = read_report(written["page"])
    mine, perfect = index["predictions"]
    assert [mine["name"], perfect["name"]] == ["mine", "perfect"]
    for group in ("all", "things", "stuff"):
        for key, value in expected[group].items():
            assert mine["summary"][group.capitalize()][key.lower()] == value
    rows = expected["per_class"]
    assert mine["summary"]["All"]["n"] == sum(row["TP"] + row["FP"] + row["FN"] > 0 for row in rows.values())
    assert mine["by_size"]["small"]["all"]["FN"] == expected["by_size"]["small"]["all"]["FN"]
    for category in index["categories"]:
        row = rows[category["name"]]
        found = category["results"][0]
        assert [found[k] for k in ("tp", "fp", "fn")] == [row[k] for k in ("TP", "FP", "FN")]
        for key in ("pq", "sq", "rq"):
            assert found[key] is None if np.isnan(row[key.upper()]) else found[key] == row[key.upper()]
    for image, row in zip(index["images"], expected["per_image"], strict=True):
        assert image["name"] == row["file_name"] and image["size"] == [24, 32]
        assert [image[k][0] for k in ("tp", "fp", "fn")] == [row[k] for k in ("TP", "FP", "FN")]
        assert image["pq"][0] is None if np.isnan(row["PQ"]) else image["pq"][0] == pytest.approx(row["PQ"], abs=1e-3)
    assert perfect["summary"]["All"]["pq"] == 100


def test_totals_agree_with_each_other(files, pairs, tmp_path):
    """Confusions, error pixels and error segments add up to the counts of the classes."""
    index = read_report(write(files, tmp_path / "out")["page"])
    pixels, segments = (np.array(index["confusion"][0][key]) for key in ("pixels", "segments"))
    categories = index["categories"]
    for cls, category in enumerate(categories):
        found = category["results"][0]
        assert segments[cls, cls] == found["tp"]
        assert segments[cls].sum() - segments[cls, cls] == found["fn"]
        assert segments[:, cls].sum() - segments[cls, cls] == found["fp"]
        assert pixels[cls].sum() == category["pixels"]
        listed = [crowd for pair in pairs for _, c, crowd in pair.gt_segments if c == cls]
        assert (category["segments"], category["crowds"]) == (len(listed), sum(listed))
        assert category["images"] == sum(any(c == cls for _, c, _ in pair.gt_segments) for pair in pairs)
    assert pixels.sum() == COUNT * 24 * 32 == sum(index["predictions"][0]["error_pixels"])
    kinds, total = index["predictions"][0]["error_segments"], index["predictions"][0]["summary"]["All"]
    assert sum(kinds["fn"].values()) == total["fn"] and sum(kinds["fp"].values()) == total["fp"]
    assert index["confusion"][0]["labels"] == [*(c["name"] for c in coco_categories()), "void"]


def test_the_maps_are_those_of_the_files(files, pairs, tmp_path):
    page = write(files, tmp_path / "out")["page"]
    for number, pair in enumerate(pairs, start=1):
        data = read_image(page, f"{number:06d}")
        pred = {id: cls for id, cls, _ in pair.pred_segments}
        counts = count_image(pair.pred_map, pred, pair.gt_map, pair.gt_segments, num_classes=8)
        errors = classify_errors(counts)
        assert data["size"] == [24, 32] and data["photo"] == f"photos/{number:06d}.jpg"
        shown, codes = data["predictions"][0], np.full((24, 32), -1)
        gt_labels, labels = pixels_of(data["ground_truth"]["map"]), pixels_of(shown["map"])
        for n, (id, cls, crowd) in enumerate(pair.gt_segments, start=1):
            np.testing.assert_array_equal(gt_labels == n, pair.gt_map == id)
            entry = {"n": n, "category": cls, "area": int((pair.gt_map == id).sum()), "iscrowd": crowd}
            assert data["ground_truth"]["segments"][n - 1] == entry
        for n, (id, cls) in enumerate(pred.items(), start=1):
            np.testing.assert_array_equal(labels == n, pair.pred_map == id)
            segment = shown["segments"][n - 1]
            assert (segment["n"], segment["category"], segment["area"]) == (n, cls, (pair.pred_map == id).sum())
            assert segment["score"] == (round(1 / (1 + id), 3) if n % 2 else None)
            assert segment["kind"] == errors.pred_kinds[n - 1]
            best = errors.iou[:, n - 1].max(initial=0)
            assert (segment["iou"] or 0) == pytest.approx(best, abs=1e-4)
            if segment["match"] is not None:
                assert segment["match"] == segment["best"] and segment["kind"] == "matched" and best > 0.5
        assert sum(s["match"] is not None for s in shown["segments"]) == errors.matching.matched.sum()
        missed = {entry["n"]: entry["kind"] for entry in shown["missed"]}
        assert missed == {g + 1: errors.gt_kinds[g] for g in np.flatnonzero(errors.matching.missed).tolist()}
        codes = errors.pixel_codes[gt_labels, labels]
        np.testing.assert_array_equal(pixels_of(shown["errors"]), codes)


def test_the_worst_segments_are_the_largest_errors(files, pairs, tmp_path):
    page = write(files, tmp_path / "out")["page"]
    index = read_report(page)
    seen = 0
    for cls, entries in index["worst"][0].items():
        assert len(entries) <= 12
        areas = [entry["area"] for entry in entries]
        assert areas == sorted(areas, reverse=True)
        for entry in entries:
            data, pair = read_image(page, f"{entry['image'] + 1:06d}"), pairs[entry["image"]]
            ids = [s[0] for s in (pair.gt_segments if entry["side"] == "gt" else pair.pred_segments)]
            mask = (pair.gt_map if entry["side"] == "gt" else pair.pred_map) == ids[entry["segment"] - 1]
            y, x = np.nonzero(mask)
            box = [x.min() / 32, y.min() / 24, (x.max() + 1) / 32, (y.max() + 1) / 24]
            assert entry["bbox"] == pytest.approx(box, abs=1e-4) and entry["area"] == mask.sum()
            side = data["ground_truth"] if entry["side"] == "gt" else data["predictions"][0]
            assert side["segments"][entry["segment"] - 1]["category"] == int(cls)
            kinds = {
                e["n"]: e["kind"] for e in data["predictions"][0]["missed" if entry["side"] == "gt" else "segments"]
            }
            assert kinds[entry["segment"]] == entry["kind"]
            seen += 1
    largest = max(
        data["ground_truth"]["segments"][entry["n"] - 1]["area"]
        for data in (read_image(page, image["id"]) for image in index["images"])
        for entry in data["predictions"][0]["missed"]
    )
    assert seen and max(entries[0]["area"] for entries in index["worst"][0].values()) >= largest


def test_large_images_are_reduced(files, tmp_path, pairs):
    """The long side is 1600; each pixel has the id at its center, and areas are of the full resolution."""
    for which, ids in (("gt", pairs[0].gt_map), ("pred", pairs[0].pred_map)):
        write_id_png(tmp_path / which / "000.png", np.kron(ids, np.ones((60, 60), int)))
    Image.new("RGB", (1920, 1440)).save(tmp_path / "photos/000.jpg")
    page = write(files, tmp_path / "out", images=["0"], boundary=False)["page"]
    data = read_image(page, "000001")
    assert data["size"] == [1200, 1600]
    place = {id: n for n, (id, *_) in enumerate(pairs[0].gt_segments, start=1)} | {0: 0}
    rows, columns = ([int((i + 0.5) * 1.2) // 60 for i in range(num)] for num in (1200, 1600))
    expected = np.vectorize(place.get)(pairs[0].gt_map)[np.ix_(rows, columns)]
    np.testing.assert_array_equal(pixels_of(data["ground_truth"]["map"]), expected)
    assert data["ground_truth"]["segments"][0]["area"] == 60**2 * (pairs[0].gt_map == pairs[0].gt_segments[0][0]).sum()
    folder = page.with_name("report_files")
    assert read_rgb(folder / "photos/000001.jpg").shape == (1200, 1600, 3)
    assert read_rgb(folder / "thumbs/000001.jpg").shape == (180, 240, 3)


HOSTILE = "</script><img src=x onerror=alert(1)>&\u2028\u2029\"'\\ \udcff é"


def test_texts_stay_texts(tmp_path, pairs):
    """Names of classes, images and predictions cannot end the script or start markup; nothing but ASCII is written."""
    categories = coco_categories()
    categories[0]["name"] = HOSTILE
    files = write_prediction_files(tmp_path, pairs, categories)
    content = json.loads(Path(files["gt_json"]).read_text())
    content["images"][0]["file_name"] = "<b>&amp;.jpg"
    Path(files["gt_json"]).write_text(json.dumps(content))
    predictions = {HOSTILE: (files["pred_json"], files["pred_root"])}
    page = write_report(files["gt_json"], files["gt_root"], predictions, tmp_path / "out", title=HOSTILE)["page"]
    for file in page.with_name("report_files").rglob("0*.js"):
        assert not set(file.read_text("ascii")) & set("<>&")
    text = (page.with_name("report_files") / "index.js").read_text("ascii")
    assert not set(text) & set("<>&")
    index = read_report(page)
    assert index["title"] == index["predictions"][0]["name"] == index["categories"][0]["name"] == HOSTILE
    assert index["images"][0]["name"] == "<b>&amp;.jpg"


def test_numbers_that_json_lacks(tmp_path):
    write_script(tmp_path / "data.js", "a", {"nan": float("nan"), "list": [1.5, float("nan")]})
    assert read_script(tmp_path / "data.js") == ("a", {"nan": None, "list": [1.5, None]})


def test_without_photos_the_thumbnails_show_the_classes(files, tmp_path, pairs):
    page = write(files, tmp_path / "out", photos=None)["page"]
    index = read_report(page)
    assert not any(image["photo"] for image in index["images"]) and all(image["thumb"] for image in index["images"])
    assert read_image(page, "000001")["photo"] is None
    assert not list((tmp_path / "out/report_files/photos").iterdir())
    thumb = read_rgb(tmp_path / "out/report_files/thumbs/000001.jpg").astype(int)
    assert thumb.shape == (24, 32, 3)
    assert thumb[pairs[0].gt_map == 0].mean() > thumb[pairs[0].gt_map > 0].mean() + 50  # void is white, classes dark


def test_bad_files_are_named_and_the_rest_is_shown(files, tmp_path):
    (tmp_path / "photos/000.jpg").write_bytes(b"not a photo")
    (tmp_path / "photos/001.jpg").unlink()
    Image.new("RGB", (64, 24)).save(tmp_path / "photos/002.jpg")
    (tmp_path / "pred/003.png").write_bytes(b"not a PNG")
    (tmp_path / "gt/004.png").unlink()
    written = write(files, tmp_path / "out")
    index = read_report(written["page"])
    assert [text.split(":")[0] for text in written["problems"]] == ["000.jpg", "001.jpg", "002.jpg"]
    assert "64x24, but its map is 32x24" in written["problems"][2]
    images = index["images"]
    assert [i for i, image in enumerate(images) if image.get("problems")] == [0, 1, 2, 4]
    assert [image["photo"] for image in images[:3]] == [False, False, True] and all(image["thumb"] for image in images)
    assert images[4]["size"] is None and images[4]["pq"] == [None] and "gt/004.png" in images[4]["problems"][0]
    left_out = read_image(written["page"], "000005")
    assert left_out["ground_truth"] is None and left_out["predictions"] == [] and left_out["photo"] is not None
    empty = read_image(written["page"], "000004")["predictions"][0]
    assert empty["segments"] == [] and not pixels_of(empty["map"]).any()
    assert index["predictions"][0]["status"] == {
        "scored": COUNT - 2, "no prediction": 0, "invalid prediction": 1, "left out": 1}  # fmt: skip
    assert any("pred/003.png" in text for text in index["predictions"][0]["problems"])


def test_a_killed_report_resumes(files, tmp_path, monkeypatch):
    """Only images that are not finished, or whose files changed, are written again."""
    whole = write(files, tmp_path / "whole")
    made = []

    def stop_after_four(task, settings, write=image_module.write_image_data):
        if len(made) == 4:
            raise KeyboardInterrupt
        made.append(task.key)
        return write(task, settings)

    monkeypatch.setattr("panoptic_fusion.evaluation.report.write.write_image_data", stop_after_four)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        write(files, out)
    assert not (out / "report.html").exists()
    with open(out / "report_files/finished.jsonl", "a") as journal:
        journal.write('\n{"key": "0000')  # a line that the kill cut off
    made.clear()
    monkeypatch.setattr(
        "panoptic_fusion.evaluation.report.write.write_image_data",
        lambda task, settings: made.append(task.key) or image_module.write_image_data(task, settings),
    )
    written = write(files, out)
    assert made == [f"{number:06d}" for number in range(5, COUNT + 1)]
    assert json.dumps(written["results"]) == json.dumps(whole["results"])
    first, second = (read_report(page["page"]) for page in (whole, written))
    assert {**first, "created": ""} == {**second, "created": ""}

    def made_again(**options):
        made.clear()
        write(files, out, **options)
        return made

    assert made_again() == []
    os.utime(tmp_path / "pred/006.png", ns=(1, 1))
    (out / "report_files/images/000003.js").unlink()
    assert made_again() == ["000003", "000007"]
    assert len(made_again(boundary=False)) == COUNT
    assert made_again(images=["3"], boundary=False) == ["000001"]
    assert [file.name for file in (out / "report_files/images").iterdir()] == ["000001.js"]


def test_a_photo_that_is_gone_leaves_the_report(files, tmp_path):
    out, pictures = tmp_path / "out", {}
    write(files, out)
    (tmp_path / "photos/001.jpg").unlink()
    for folder in (out, tmp_path / "new"):
        page = write(files, folder)["page"]
        data = folder / "report_files"
        pictures[folder] = {p.relative_to(data): p.read_bytes() for p in data.glob("*s/*.jpg")}
        assert not read_report(page)["images"][1]["photo"]
    assert pictures[out] == pictures[tmp_path / "new"] and Path("photos/000002.jpg") not in pictures[out]


def test_predictions_are_compared(files, tmp_path):
    """The second one is perfect: each difference is 100 less the first one's PQ."""
    written = write(files, tmp_path / "out", twice=True)
    index = read_report(written["page"])
    [compared] = index["compare"]
    pq = index["predictions"][0]["summary"]["All"]["pq"]
    assert (compared["a"], compared["b"]) == (0, 1) and compared["delta"]["samples"] == COUNT
    assert compared["delta"]["pq"] == pytest.approx(100 - pq)
    low, high = compared["delta"]["ci"]
    assert 0 < low < compared["delta"]["pq"] < high <= 100
    changes = dict(map(tuple, compared["images"]))
    for number, image in enumerate(index["images"]):
        if image["pq"][0] is not None and image["pq"][1] is not None and image["pq"][0] < 100:
            assert changes[number] == pytest.approx(100 - image["pq"][0], abs=1e-3)


def test_the_ground_truth_alone(files, tmp_path):
    written = write_report(files["gt_json"], files["gt_root"], {}, tmp_path / "out", processes=1)
    index, data = read_report(written["page"]), read_image(written["page"], "000001")
    assert index["predictions"] == index["confusion"] == index["worst"] == index["compare"] == []
    assert written["results"] == {} and index["categories"][0]["results"] == [] and "pq" not in index["images"][0]
    assert data["predictions"] == [] and data["ground_truth"]["segments"]


def test_what_cannot_be_reported(files, tmp_path):
    with pytest.raises(UserError, match="nowhere is not a folder: pass the folder of the images"):
        write(files, tmp_path / "out", photos=tmp_path / "nowhere")
    with pytest.raises(UserError, match="nowhere is not a folder: pass the folder of the PNGs"):
        write({**files, "pred_root": str(tmp_path / "nowhere")}, tmp_path / "out")
    with pytest.raises(UserError, match="pq_dagger is 'x'"):
        write(files, tmp_path / "out", pq_dagger="x")
    shutil.rmtree(tmp_path / "photos")
    assert not (tmp_path / "out").exists()


def test_images_that_are_too_large(files, tmp_path):
    """INPUT.MAX_PIXELS holds for photos, ground truth and predictions: 24 x 32 is one pixel too many."""
    index = read_report(write(files, tmp_path / "small", max_pixels=24 * 32 - 1)["page"])
    assert index["predictions"][0]["status"]["left out"] == COUNT and not any(i["photo"] for i in index["images"])
    index = read_report(write(files, tmp_path / "large", max_pixels=24 * 32)["page"])
    assert index["predictions"][0]["status"]["scored"] == COUNT and all(i["photo"] for i in index["images"])

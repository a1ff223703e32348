"""Whole reports in headless Chromium: of toy scenes, and of CamVid where its images are."""

import os
from pathlib import Path

import numpy as np
import pytest
from report_data import pixels_of, point_at, read_image, read_report
from report_pictures import distorted_predictions
from tiny_training import ROOT

from panoptic_fusion.data.toy.scenes import generate_toy_scenes
from panoptic_fusion.evaluation.files import evaluate_files
from panoptic_fusion.evaluation.report.write import write_report

CAMVID = Path(os.environ.get("PANOPTIC_FUSION_DATA", ROOT.parent / "shared" / "data"), "camvid")
KINDS = {"matched": "Matched", "false": "False positive", "wrong class": "Wrong class", "merged": "Merged"} | {
    "split": "Split", "low iou": "Low IoU", "ignored": "Not scored",
}  # fmt: skip


@pytest.fixture
def toy(tmp_path):
    files = generate_toy_scenes(tmp_path / "toy", num_train=1, num_val=4, seed=3, size=(128, 192))["val"]
    return files["panoptic_json"], files["panoptic_root"], files["images"]


@pytest.fixture
def camvid():
    if not CAMVID.is_dir():
        pytest.skip(f"{CAMVID} does not exist")
    return CAMVID / "annotations/panoptic_val.json", CAMVID / "annotations/panoptic_val", CAMVID / "images/val"


@pytest.mark.parametrize("dataset", ["toy", pytest.param("camvid", marks=pytest.mark.slow)])
def test_a_report_of_two_predictions(dataset, request, open_page, tmp_path):
    """Its numbers are those of `evaluate_files`; it sorts, opens an image, switches layers and names a segment."""
    gt_json, gt_root, photos = request.getfixturevalue(dataset)
    predictions = distorted_predictions(gt_json, gt_root, tmp_path)
    made = write_report(gt_json, gt_root, predictions, tmp_path / "report", photos=photos, processes=1)
    index = read_report(made["page"])
    page = open_page(made["page"].parent)

    shown = [float(each.get_attribute("data-value")) for each in page.locator(".headline .big").all()]
    results = [evaluate_files(gt_json, gt_root, *files, processes=1) for files in predictions.values()]
    assert shown == pytest.approx([result["all"]["PQ"] for result in results], abs=1e-9)
    rows = page.locator("main article tbody tr", has=page.locator("td[data-value]"))
    for row, counts in zip(rows.all(), [r[g] for r in results for g in ("all", "things", "stuff")], strict=True):
        expected = [f"{counts[key]:,}" for key in ("TP", "FP", "FN")]
        assert row.locator("td").all_inner_texts()[-3:] == expected

    # The limits are COCO's: an area below 32 * 32 is small, and 96 * 96 is large.
    summary = page.locator("main").inner_text()
    assert all(text in summary for text in ("Ground-truth segments", "below 32² px", "32² to 96² px", "from 96² px"))

    page.locator("nav a", has_text="Classes").click()
    for row in page.locator("table.classes tbody tr").all():
        name = row.locator("a, span:not(.swatch)").first.inner_text()
        assert float(row.locator("td[data-label=PQ]").get_attribute("data-value")) == pytest.approx(
            results[0]["per_class"][name]["PQ"], abs=1e-9
        )

    page.locator("nav a", has_text="Images").click()
    names = sorted(index["images"], key=lambda image: image["pq"][0])
    assert page.locator(".image-row .file").first.inner_text() == names[0]["name"]
    page.locator(".image-row").first.click()
    page.wait_for_selector("canvas[data-layer=errors]")
    before = page.locator(".frame").screenshot()
    page.keyboard.press("2")
    page.wait_for_selector("canvas[data-layer=truth]")
    assert page.locator(".frame").screenshot() != before

    part = read_image(made["page"], names[0]["id"])["predictions"][0]
    numbers = pixels_of(part["map"])
    for segment in sorted(part["segments"], key=lambda segment: -segment["area"])[:5]:
        ys, xs = np.nonzero(numbers == segment["n"])
        point_at(page, int(xs[len(xs) // 2]), int(ys[len(ys) // 2]), numbers.shape)
        text = page.locator(".tooltip dd[data-side=pred]").inner_text()
        assert index["categories"][segment["category"]]["name"] in text
        assert KINDS[segment["kind"]].lower() in text.lower()
        assert segment["iou"] is None or f"IoU {segment['iou']:.2f}" in text

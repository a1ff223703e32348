#!/usr/bin/env python
"""Draws the screenshots in docs/report.md.

python tools/report_pictures.py docs

The report is of toy scenes and of two models: their predictions are distorted ground truth, so that each kind of error
occurs. The tool writes report_summary.jpg, report_classes.jpg, report_confusion.jpg, report_worst.jpg,
report_compare.jpg, report_viewer.jpg and report_segment.jpg at a width of 1280 pixels, and report_phone.jpg: four
sections at a width of 400 pixels, in dark colors.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from headless_browser import missing_browser, open_browser

from panoptic_fusion.data.annotation import read_id_map
from panoptic_fusion.data.toy.scenes import generate_toy_scenes
from panoptic_fusion.evaluation.report.write import write_report
from panoptic_fusion.evaluation.submission import write_panoptic_png
from panoptic_fusion.files import temporary_folder, write_json

MODELS = {"model A": (1, 0.1), "model B": (2, 0.22)}  # seed, probability of each kind of error
DESKTOP = {"width": 1280, "height": 860}
PHONE = {"width": 400, "height": 800}
SECTIONS = ("summary", "classes", "confusion", "worst", "compare")
PHONE_SECTIONS = ("summary", "classes", "images")
MAX_BYTES = 300_000
# Place on the screen of a pixel inside the outlined segment: the inner part of the outline is white.
INSIDE_OUTLINE = """() => {
  const canvas = document.querySelector("canvas[data-layer=outline]");
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const white = [...Array(data.length / 4).keys()].filter((i) => data[4 * i] && data[4 * i + 3]);
  const i = white[white.length >> 1];
  const box = canvas.getBoundingClientRect();
  const place = [(i % canvas.width) + 0.5, Math.floor(i / canvas.width) + 0.5];
  return [box.x + (place[0] * box.width) / canvas.width, box.y + (place[1] * box.height) / canvas.height];
}"""
QUALITIES = (90, 80, 70, 60, 50)


def main() -> None:
    """Runs the tool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="existing folder for the pictures")
    parser.add_argument("--images", type=int, default=40, help="number of toy scenes")
    args = parser.parse_args()
    if not args.output.is_dir():
        parser.error(f"{args.output} is not a folder")
    if missing_browser():
        parser.error(missing_browser())
    with temporary_folder("report_pictures.") as folder, open_browser() as browser:
        page = toy_report(folder, args.images)
        for name, picture in pictures(browser, page.resolve().as_uri()):
            write_jpeg(args.output / f"report_{name}.jpg", picture)


def toy_report(folder: Path, num_images: int) -> Path:
    """Writes a report of distorted toy scenes; returns the path of its page."""
    files = generate_toy_scenes(folder / "toy", num_train=1, num_val=num_images, seed=3, size=(288, 432))["val"]
    predictions = distorted_predictions(files["panoptic_json"], files["panoptic_root"], folder)
    truth = files["panoptic_json"], files["panoptic_root"]
    return write_report(*truth, predictions, folder / "report", photos=files["images"], title="Toy scenes")["page"]


def distorted_predictions(gt_json: str | Path, gt_root: str | Path, folder: Path) -> dict[str, tuple[Path, Path]]:
    """Writes the predictions of `MODELS` to `folder`; returns (JSON, folder of PNGs) of each."""
    truth = json.loads(Path(gt_json).read_text())
    predictions = {}
    for name, (seed, rate) in MODELS.items():
        rng, root = np.random.default_rng(seed), folder / name
        root.mkdir()
        annotations = []
        for annotation in truth["annotations"]:
            id_map = read_id_map(str(Path(gt_root, annotation["file_name"])))
            id_map, segments = distort(rng, rate, id_map, annotation["segments_info"], truth["categories"])
            write_panoptic_png(root / annotation["file_name"], id_map)
            annotations.append({**annotation, "segments_info": segments})
        write_json(folder / f"{name}.json", {**truth, "annotations": annotations})
        predictions[name] = (folder / f"{name}.json", root)
    return predictions


def distort(rng: np.random.Generator, rate: float, id_map: np.ndarray, segments: list, categories: list):
    """Returns a prediction (map, segments): ground truth with moved, lost, split, merged, new and renamed segments."""
    kinds = {isthing: [c["id"] for c in categories if c["isthing"] == isthing] for isthing in (0, 1)}
    isthing = {c["id"]: c["isthing"] for c in categories}
    predicted, found, latest = np.zeros_like(id_map), {}, {}

    def add(mask: np.ndarray, category: int) -> None:
        number = len(found) + 1
        predicted[mask] = number
        found[number] = {"id": number, "category_id": category, "iscrowd": 0}
        if isthing[category]:
            found[number]["score"] = float(rng.uniform(0.5, 1))
        latest[category] = number

    for segment in sorted(segments, key=lambda segment: -segment["area"]):
        mask, category = id_map == segment["id"], segment["category_id"]
        if rng.random() < rate:
            continue  # missed
        reach = 2 + int(20 * rate)
        if isthing[category]:
            mask = np.roll(mask, rng.integers(-reach, reach + 1, size=2), axis=(0, 1))
        if rng.random() < rate:
            category = int(rng.choice(kinds[isthing[category]]))
        if isthing[category] and rng.random() < rate and category in latest:
            predicted[mask] = latest[category]  # merged
        elif isthing[category] and rng.random() < rate:
            middle = int(np.median(mask.nonzero()[1]))
            left = mask & (np.arange(mask.shape[1]) < middle)
            add(left, category)
            add(mask & ~left, category)
        else:
            add(mask, category)
    if rng.random() < 3 * rate:
        y, x = (int(rng.integers(0, size - 40)) for size in id_map.shape)
        add(cv2.circle(np.zeros(id_map.shape, np.uint8), (x + 20, y + 20), 18, 1, -1) > 0, int(rng.choice(kinds[1])))
    seen = np.unique(predicted)
    return predicted, [segment for number, segment in found.items() if number in seen]


def pictures(browser: Any, address: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (name, (H, W, 3) uint8 BGR screenshot) of each picture."""
    page = browser.new_page(viewport=DESKTOP)
    for section in SECTIONS:
        open_section(page, address, section)
        yield section, screenshot(page)
    open_viewer(page, address)
    page.keyboard.press("3")  # the layer of the prediction
    page.keyboard.press("p")  # the second prediction
    yield "viewer", screenshot(page)
    page.locator("button.segment", has_text="score").last.click()  # zooms to the segment
    page.mouse.move(*page.evaluate(INSIDE_OUTLINE))
    yield "segment", screenshot(page)

    phone = browser.new_page(viewport=PHONE, color_scheme="dark")
    columns = []
    for section in PHONE_SECTIONS:
        open_section(phone, address, section)
        columns.append(screenshot(phone))
    open_viewer(phone, address)
    columns.append(screenshot(phone))
    gap = np.full((PHONE["height"], 16, 3), 255, np.uint8)
    yield "phone", np.concatenate([part for column in columns for part in (column, gap)][:-1], axis=1)


def open_section(page: Any, address: str, section: str) -> None:
    """Opens a section and waits until its pictures are loaded."""
    page.goto("about:blank")
    page.goto(f"{address}#/{section}")
    page.wait_for_selector("main section")
    page.wait_for_function("[...document.images].every(image => image.complete || image.loading === 'lazy')")
    page.wait_for_timeout(300)


def open_viewer(page: Any, address: str) -> None:
    """Opens the image with the lowest PQ, the first one of the list."""
    open_section(page, address, "images")
    page.locator(".image-row").first.click()
    page.wait_for_selector("canvas[data-layer=errors]")


def screenshot(page: Any) -> np.ndarray:
    """Returns the visible part of a page as (H, W, 3) uint8 BGR."""
    page.wait_for_timeout(200)
    return cv2.imdecode(np.frombuffer(page.screenshot(), np.uint8), cv2.IMREAD_COLOR)


def write_jpeg(path: Path, picture: np.ndarray) -> None:
    """Writes a JPEG at the best quality with which it has at most 300 kB."""
    for quality in QUALITIES:
        data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        if len(data) <= MAX_BYTES:
            break
    path.write_bytes(data.tobytes())


if __name__ == "__main__":
    main()

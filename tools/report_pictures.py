#!/usr/bin/env python
"""Draws the screenshots in docs/report.md from a report of two predictions.

python tools/report_pictures.py REPORT_FOLDER docs [--image 000003]

It writes report_summary.jpg, report_classes.jpg, report_viewer.jpg, report_worst.jpg and report_compare.jpg at a width of 1280
pixels, and report_phone.jpg: four sections at a width of 400 pixels, in dark colors.
"""

import argparse
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from headless_browser import missing_browser, open_browser

DESKTOP = {"width": 1280, "height": 860}
PHONE = {"width": 400, "height": 800}
PHONE_SECTIONS = ("summary", "classes", "images")
MAX_BYTES = 300_000
QUALITIES = (90, 80, 70, 60, 50)


def main() -> None:
    """Runs the tool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, help="folder of report.html")
    parser.add_argument("output", type=Path, help="existing folder for the pictures")
    parser.add_argument("--image", help="id of the image in the viewer; default: the one with the lowest PQ")
    args = parser.parse_args()
    page = args.report / "report.html"
    for path in (page, args.output):
        if not path.exists():
            parser.error(f"{path} does not exist")
    if missing_browser():
        parser.error(missing_browser())
    with open_browser() as browser:
        for name, picture in pictures(browser, page.resolve().as_uri(), args.image):
            write_jpeg(args.output / f"report_{name}.jpg", picture)


def pictures(browser: Any, address: str, image: str | None):
    """Yields (name, (H, W, 3) uint8 BGR screenshot) of each picture."""
    page = browser.new_page(viewport=DESKTOP)
    for section in ("summary", "classes", "worst", "compare"):
        open_section(page, address, section)
        yield section, screenshot(page)
    open_viewer(page, address, image)
    page.get_by_label("Prediction", exact=True).check()
    page.keyboard.press("p")  # the second prediction
    page.locator("button.segment").first.click()
    page.keyboard.press("0")
    box = page.locator(".frame").bounding_box()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.8 * box["height"])
    yield "viewer", screenshot(page)

    phone = browser.new_page(viewport=PHONE, color_scheme="dark")
    columns = []
    for section in PHONE_SECTIONS:
        open_section(phone, address, section)
        columns.append(screenshot(phone))
    open_viewer(phone, address, image)
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


def open_viewer(page: Any, address: str, image: str | None) -> None:
    """Opens an image, or the first one of the list."""
    open_section(page, address, f"image/{image}" if image else "images")
    if image is None:
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

"""Reads the data of a report as its page does, and moves the pointer in the page."""

import base64
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image


def read_script(path: Path) -> tuple[str, dict]:
    """Returns key and content of a script of data; the text is one call with two JSON arguments, and plain ASCII."""
    text = path.read_bytes().decode("ascii")
    assert text.startswith("panopticReport(") and text.endswith(");\n")
    key, content = json.loads(f"[{text.removeprefix('panopticReport(').removesuffix(');' + chr(10))}]")
    return key, content


def read_report(page: Path) -> dict:
    """Returns the index of a report."""
    key, content = read_script(page.with_name("report_files") / "index.js")
    assert page.is_file() and key == "index"
    return content


def read_image(page: Path, id: str) -> dict:
    """Returns the data of one image of a report."""
    key, content = read_script(page.with_name("report_files") / "images" / f"{id}.js")
    assert key == id
    return content


def pixels_of(address: str) -> np.ndarray:
    """Returns the pixels of a PNG in a data address; of RGB ones, the labels R + 256 G + 65536 B."""
    data = base64.b64decode(address.removeprefix("data:image/png;base64,"), validate=True)
    pixels = np.asarray(Image.open(io.BytesIO(data))).astype(int)
    return pixels if pixels.ndim == 2 else pixels @ [1, 256, 65536]


def point_at(page, x: int, y: int, size: tuple[int, int]) -> None:
    """Moves the pointer to the middle of a pixel of the map (h, w); the whole image is shown."""
    box = page.locator(".stack").bounding_box()
    page.mouse.move(box["x"] + (x + 0.5) / size[1] * box["width"], box["y"] + (y + 0.5) / size[0] * box["height"])

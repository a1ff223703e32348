"""Metrics of a set of images, overall, per class and per segment size, and their result files."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..files import without_nan, write_atomically, write_json
from ..markdown import escape_markdown, markdown_table
from .matching import ImageCounts
from .panoptic_quality import PanopticQuality

SIZES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, np.inf)}  # pixels, as in COCO's AP
GROUPS = ("all", "things", "stuff")


class Scores:
    """Accumulated sums from which every metric of a set of images is computed."""

    def __init__(self, num_things: int, num_stuff: int, *, boundary: bool = True):
        """
        Args:
            num_things, num_stuff: T and S, the numbers of classes.
            boundary: also sum up boundary PQ.
        """
        self.boundary = boundary
        names = ("mask", "boundary", *SIZES) if boundary else ("mask", *SIZES)
        self.quality = {name: PanopticQuality(num_things, num_stuff) for name in names}

    def add(self, image: ImageCounts) -> None:
        """Adds the `ImageCounts` of one image; with boundary counts where boundary PQ is summed up."""
        self.quality["mask"].add(image)
        if self.boundary:
            self.quality["boundary"].add(image, boundary=True)
        matching = image.match()
        for name, (low, high) in SIZES.items():
            self.quality[name].add_matching(matching.of_size(low, high))

    def state(self) -> np.ndarray:
        """Returns all sums as one float64 array."""
        return np.stack([quality.state() for quality in self.quality.values()])

    def merge(self, state: np.ndarray) -> None:
        """Adds the `state()` of other images."""
        for quality, row in zip(self.quality.values(), state, strict=True):
            quality.merge(row)


def image_row(scores: Scores) -> dict[str, float]:
    """Returns the measures of one image."""
    quality = {name: scores.quality[name].compute()["all"] for name in ("mask", "boundary") if name in scores.quality}
    row = {label: 100 * quality["mask"][key] for key, label in (("pq", "PQ"), ("sq", "SQ"), ("rq", "RQ"))}
    if scores.boundary:
        row["boundary_PQ"] = 100 * quality["boundary"]["pq"]
    return {**row, **{key.upper(): quality["mask"][key] for key in ("tp", "fp", "fn")}}


def summarize(total: Scores, names: Sequence[str], pq_dagger: str) -> dict[str, Any]:
    """Returns the metrics of all images in the format of `evaluate_files`; `names` lists things, then stuff."""
    quality = {name: q.compute(pq_dagger) for name, q in total.quality.items()}
    mask, boundary = quality["mask"], quality.get("boundary")
    result: dict[str, Any] = {"images": mask["images"]}
    for group in GROUPS:
        result[group] = _measures(mask[group], boundary and boundary[group], "miou", "mIoU")
    result["by_size"] = {size: {group: _plain_measures(quality[size][group]) for group in GROUPS} for size in SIZES}
    rims = boundary["per_class"] if boundary else [None] * len(names)
    result["per_class"] = {
        name: _measures(row, rim, "iou", "IoU") for name, row, rim in zip(names, mask["per_class"], rims, strict=True)
    }
    return result


def write_scores(result: Mapping[str, Any], folder: str | os.PathLike) -> None:
    """Writes results.json, results.md and images.csv; see `evaluate_files` for `result`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    without_rows = {key: value for key, value in result.items() if key != "per_image"}
    write_json(folder / "results.json", without_nan(without_rows), indent=1)
    write_atomically(folder / "results.md", lambda file: file.write(_encode(f"{scores_table(result)}\n")))
    text = io.StringIO()
    rows = result["per_image"]
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["image_id"])
    writer.writeheader()
    writer.writerows(without_nan(row) for row in rows)
    write_atomically(folder / "images.csv", lambda file: file.write(_encode(text.getvalue())))


def groups_table(result: Mapping[str, Any]) -> str:
    """Returns the measures of all classes, things, and stuff as a markdown table."""
    keys = ("PQ", "SQ", "RQ", "PQ_dagger", "boundary_PQ", "mIoU", "TP", "FP", "FN")
    return _rows_table({group: result[group] for group in GROUPS}, f"{result['images']} images", keys)


def scores_table(result: Mapping[str, Any]) -> str:
    """Returns the results as markdown tables: groups, segment sizes, classes, problems."""
    tables = [groups_table(result)]
    rows = {f"{size}, {group}": result["by_size"][size][group] for size in SIZES for group in GROUPS}
    tables.append(_rows_table(rows, "segments", ("PQ", "SQ", "RQ", "TP", "FP", "FN")))
    keys = ("PQ", "SQ", "RQ", "boundary_PQ", "IoU", "TP", "FP", "FN")
    tables.append(_rows_table(result["per_class"], "class", keys))
    if result["problems"]:
        tables.append("\n".join(f"- {escape_markdown(text)}" for text in result["problems"]))
    return "\n\n".join(tables)


def _rows_table(rows: Mapping[str, Mapping], title: str, keys: Sequence[str]) -> str:
    """Returns a table of the rows, without the measures that none of them has."""
    keys = [key for key in keys if any(key in row for row in rows.values())]
    titles = {"PQ_dagger": "PQ†", "boundary_PQ": "boundary PQ"}
    cells = [[name, *(row[key] for key in keys)] for name, row in rows.items()]
    return markdown_table(cells, [title, *(titles.get(key, key) for key in keys)])


def _encode(text: str) -> bytes:
    """Returns UTF-8; what it does not have (a lone surrogate, from a name in a JSON) becomes an escape sequence."""
    return text.encode("utf-8", "backslashreplace")


def _measures(mask: Mapping, boundary: Mapping | None, iou_key: str, iou_label: str) -> dict[str, float | int]:
    measures = _plain_measures(mask)
    measures |= {"PQ_dagger": 100 * mask["pq_dagger"], iou_label: 100 * mask[iou_key]}
    if boundary is None:
        return measures
    return measures | {f"boundary_{key.upper()}": 100 * boundary[key] for key in ("pq", "sq", "rq")}


def _plain_measures(row: Mapping) -> dict[str, float | int]:
    measures = {key.upper(): 100 * row[key] for key in ("pq", "sq", "rq")}
    return measures | {key.upper(): row[key] for key in ("tp", "fp", "fn")}

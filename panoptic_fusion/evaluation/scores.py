"""Metrics of a set of images, overall, per class and per segment size, and their result files."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import counted
from ..files import without_nan, write_json, write_text
from ..markdown import escape_markdown, markdown_table
from .matching import ImageCounts
from .panoptic_quality import PanopticQuality

SIZES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, np.inf)}  # pixels, as in COCO's AP
GROUPS = ("all", "things", "stuff")
MEASURES = (("pq", "PQ"), ("sq", "SQ"), ("rq", "RQ"), ("pq_dagger", "PQ_dagger"), ("miou", "mIoU"))
SHOWN_PROBLEMS = 50


class Scores:
    """Accumulated sums from which every metric of a set of images is computed."""

    def __init__(self, num_things: int, num_stuff: int, *, boundary: bool = True):
        """Initializes the sums.

        Args:
            num_things, num_stuff: numbers of thing and stuff classes, T and S.
            boundary: whether to also sum up boundary PQ.
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
    """Returns the metrics of one image."""
    quality = scores.quality["mask"].compute()["all"]
    row = {label: 100 * quality[key] for key, label in MEASURES}
    if scores.boundary:
        row["boundary_PQ"] = 100 * scores.quality["boundary"].compute()["all"]["pq"]
    return {**row, **{key.upper(): quality[key] for key in ("tp", "fp", "fn")}}


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
    write_text(folder / "results.md", f"{scores_table(result)}\n")
    write_rows(result["per_image"], folder / "images.csv")


def write_rows(rows: Sequence[Mapping[str, Any]], path: str | os.PathLike) -> None:
    """Writes one CSV line per image; a metric that is NaN is an empty cell."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["image_id"])
    writer.writeheader()
    writer.writerows(without_nan(row) for row in rows)
    write_text(path, text.getvalue())


def scores_table(result: Mapping[str, Any]) -> str:
    """Returns the results as Markdown tables: groups, segment sizes, classes; then the images' status and problems."""
    tables = [groups_table(result), sizes_table(result), classes_table(result)]
    if "status" in result:
        tables += [status_line(result), *problem_lines(result)]
    return "\n\n".join(tables)


def groups_table(result: Mapping[str, Any]) -> str:
    """Returns the metrics of all classes, of the things and of the stuff as a Markdown table."""
    keys = ("PQ", "SQ", "RQ", "PQ_dagger", "boundary_PQ", "mIoU", "TP", "FP", "FN")
    return _rows_table({group: result[group] for group in GROUPS}, counted(result["images"], "image"), keys)


def sizes_table(result: Mapping[str, Any]) -> str:
    """Returns the metrics by segment size as a Markdown table."""
    rows = {f"{size}, {group}": result["by_size"][size][group] for size in SIZES for group in GROUPS}
    return _rows_table(rows, "segments", ("PQ", "SQ", "RQ", "TP", "FP", "FN"))


def classes_table(result: Mapping[str, Any]) -> str:
    """Returns the metrics of each class as a Markdown table."""
    keys = ("PQ", "SQ", "RQ", "PQ_dagger", "boundary_PQ", "IoU", "TP", "FP", "FN")
    return _rows_table(result["per_class"], "class", keys)


def status_line(result: Mapping[str, Any]) -> str:
    """Returns the number of images by status, in one line."""
    return f"Images: {', '.join(f'{number} {status}' for status, number in result['status'].items())}."


def problem_lines(result: Mapping[str, Any]) -> list[str]:
    """Returns the first problems as one Markdown list, or nothing if there are none."""
    lines = first_problems(result["problems"], "results.json")
    return ["\n".join(lines)] if lines else []


def first_problems(problems: Sequence[str], file: str) -> list[str]:
    """Returns the first problems as items of a Markdown list; `file` is the name of the file that has all of them."""
    lines = [f"- {escape_markdown(text)}" for text in problems[:SHOWN_PROBLEMS]]
    more = len(problems) - len(lines)
    return [*lines, f"- and {more} more, see {file}"] if more else lines


def _rows_table(rows: Mapping[str, Mapping], title: str, keys: Sequence[str]) -> str:
    """Returns a Markdown table of the rows, without the metrics that none of them has."""
    keys = [key for key in keys if any(key in row for row in rows.values())]
    titles = {"PQ_dagger": "PQ†", "boundary_PQ": "boundary PQ"}
    cells = [[name, *(row[key] for key in keys)] for name, row in rows.items()]
    return markdown_table(cells, [title, *(titles.get(key, key) for key in keys)])


def _measures(mask: Mapping, boundary: Mapping | None, iou_key: str, iou_label: str) -> dict[str, float | int]:
    measures = _plain_measures(mask)
    measures |= {"PQ_dagger": 100 * mask["pq_dagger"], iou_label: 100 * mask[iou_key]}
    if boundary is None:
        return measures
    return measures | {f"boundary_{key.upper()}": 100 * boundary[key] for key in ("pq", "sq", "rq")}


def _plain_measures(row: Mapping) -> dict[str, float | int]:
    measures = {key.upper(): 100 * row[key] for key in ("pq", "sq", "rq")}
    return measures | {key.upper(): row[key] for key in ("tp", "fp", "fn")}

"""Writes the results of an evaluation to files: results.json for programs, results.md for people."""

from collections.abc import Mapping
from typing import Any

from ..files import without_nan, write_json, write_text
from ..markdown import escape_markdown, markdown_table
from .scores import SIZES, groups_table, sizes_table

GROUP_SUFFIXES = {"all": "", "things": "_th", "stuff": "_st"}
MEASURES = ("PQ", "SQ", "RQ", "PQ_dagger", "boundary_PQ", "mIoU", "TP", "FP", "FN")
TASK_MEASURES = {
    "instances": ("AP", "AP50", "AP75"),
    "pixels": ("IoU", "iIoU", "IoU_sup", "iIoU_sup"),
    "semantic head": ("mIoU_sem",),
}


def flat_results(summary: Mapping[str, Any]) -> dict[str, float]:
    """Returns the numbers of `summarize` by one name each, as detectron2 expects them.

    PQ, SQ, RQ, PQ_dagger, boundary_PQ (if computed) and mIoU are x 100, and NaN if no class counts. TP, FP and FN
    are numbers of segments over all images and classes. PQ_small, PQ_medium and PQ_large are the PQ by segment size.
    Each of these is also given with the suffixes _th (things) and _st (stuff). PQ-<class> is the PQ of each class, and
    images is the number of images.
    """
    results = {}
    for group, suffix in GROUP_SUFFIXES.items():
        results.update({f"{key}{suffix}": float(summary[group][key]) for key in MEASURES if key in summary[group]})
        results.update({f"PQ_{size}{suffix}": float(summary["by_size"][size][group]["PQ"]) for size in SIZES})
    results["images"] = float(summary["images"])
    results.update({f"PQ-{name}": float(row["PQ"]) for name, row in summary["per_class"].items()})
    return results


def _nested(quality: Mapping[str, float]) -> dict[str, Any]:
    """Returns the groups and the PQ by segment size of `flat_results` in the format of `summarize`."""
    result: dict[str, Any] = {"images": int(quality["images"]), "by_size": {size: {} for size in SIZES}}
    for group, suffix in GROUP_SUFFIXES.items():
        result[group] = {key: quality[f"{key}{suffix}"] for key in MEASURES if f"{key}{suffix}" in quality}
        result[group] |= {key: int(result[group][key]) for key in ("TP", "FP", "FN")}
        for size in SIZES:
            result["by_size"][size][group] = {"PQ": quality[f"PQ_{size}{suffix}"]}
    return result


def write_results(results: Mapping[str, Mapping], stem: str) -> None:
    """Writes `<stem>.json` and `<stem>.md`.

    Args:
        results: output of `DefaultTrainer.test`: {task: {name: number}}, or {dataset: {task: ...}} if there are
            several datasets. Metrics are x 100; NaN becomes null in the JSON.
        stem: path without a suffix.
    """
    per_dataset = (
        results if all(isinstance(v, Mapping) for r in results.values() for v in r.values()) else {"": results}
    )
    write_json(f"{stem}.json", without_nan(results), indent=1, default=float)
    text = "\n\n".join(
        f"### {escape_markdown(name)}\n\n{results_table(r)}" if name else results_table(r)
        for name, r in per_dataset.items()
    )
    write_text(f"{stem}.md", f"{text}\n")


def results_table(results: Mapping[str, Mapping[str, float]]) -> str:
    """Returns the results of one dataset as Markdown tables: groups, metrics of other tasks, and PQ per class."""
    quality = results.get("panoptic_seg", {})
    tables = []
    if quality:
        nested = _nested(quality)
        tables += [groups_table(nested), sizes_table(nested)]
    for title, keys in TASK_MEASURES.items():
        rows = [[task, *(r.get(k) for k in keys)] for task, r in results.items() if keys[0] in r]
        if rows:
            tables.append(markdown_table(rows, [title, *keys], missing="-"))
    classes = [[k.removeprefix("PQ-"), v] for k, v in quality.items() if k.startswith("PQ-")]
    if classes:
        tables.append(markdown_table(classes, ["class", "PQ"]))
    return "\n\n".join(tables)

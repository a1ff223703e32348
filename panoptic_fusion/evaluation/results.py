"""Writes the results of an evaluation to files: results.json for programs, results.md for people."""

from collections.abc import Mapping

from panoptic_fusion.files import without_nan, write_atomically, write_json
from panoptic_fusion.markdown import escape_markdown, markdown_table

MEASURES = ("PQ", "SQ", "RQ", "PQ_dagger", "mIoU")
OPTIONAL = ("boundary_PQ", "PQ_small", "PQ_medium", "PQ_large")  # results of older versions lack them
TITLES = {
    "PQ_dagger": "PQ†",
    "boundary_PQ": "boundary PQ",
    "PQ_small": "PQ small",
    "PQ_medium": "PQ medium",
    "PQ_large": "PQ large",
}


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
    write_atomically(f"{stem}.md", lambda f: f.write(f"{text}\n".encode()))


def results_table(results: Mapping[str, Mapping[str, float]]) -> str:
    """Returns the results of one dataset as Markdown tables: groups, metrics of other tasks, and PQ per class."""
    quality = results.get("panoptic_seg", {})
    tables = []
    if quality:
        measures = [m for m in (*MEASURES, *OPTIONAL) if m in MEASURES or m in quality]
        rows = [
            [group, *(quality[f"{m}{suffix}"] for m in measures)]
            for group, suffix in (("all", ""), ("things", "_th"), ("stuff", "_st"))
        ]
        header = [f"{quality['images']:.0f} images", *(TITLES.get(m, m) for m in measures)]
        tables.append(markdown_table(rows, header, missing="-"))
    for title, keys in (("instances", ("AP", "AP50", "AP75")), ("pixels", ("IoU", "iIoU", "IoU_sup", "iIoU_sup"))):
        rows = [[task, *(r.get(k) for k in keys)] for task, r in results.items() if keys[0] in r]
        if rows:
            tables.append(markdown_table(rows, [title, *keys], missing="-"))
    classes = [[k.removeprefix("PQ-"), v] for k, v in quality.items() if k.startswith("PQ-")]
    if classes:
        tables.append(markdown_table(classes, ["class", "PQ"]))
    return "\n\n".join(tables)

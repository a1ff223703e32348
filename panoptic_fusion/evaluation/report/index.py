"""Collects the numbers of all images of a report as the data of its page."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import combinations
from typing import Any

import numpy as np

from ..files import results_of
from ..scores import GROUPS, SHOWN_PROBLEMS
from .comparison import compare
from .errors import CODES
from .image import TRUTH, VERSION, ReportImage, Settings, dense, problems_of
from .worst import largest_per_class

RESULTS = ("pq", "sq", "rq", "tp", "fp", "fn")  # numbers per class and prediction
Records = Sequence[Mapping[str, Any]]


def collect_results(
    records: Records, settings: Settings, problems: Sequence[list[str]], pq_dagger: str
) -> list[dict[str, Any]]:
    """Returns the results of each prediction as `evaluate_files` returns them.

    Args:
        records: what `write_image_data` returns for each image.
        settings: settings of the records.
        problems: problems in each prediction's JSON.
        pq_dagger: see `PanopticQuality.compute`.
    """
    results = []
    for i, texts in enumerate(problems):
        total = settings.empty_scores()
        total.merge(_sum(records, i, "state", total.state()))
        rows = [record["predictions"][i]["row"] for record in records]
        results.append(results_of(total, rows, texts, settings.label_space, pq_dagger))
    return results


def make_index(
    title: str,
    names: Sequence[str],
    images: Sequence[ReportImage],
    records: Records,
    results: Sequence[Mapping[str, Any]],
    settings: Settings,
    class_totals: Sequence[Sequence[int]] | None = None,
) -> dict[str, Any]:
    """Returns the data of the page that concern all images; docs/report.md describes them.

    Args:
        title: title of the page.
        names: names of the predictions.
        images, records: the images and what `write_image_data` returned for each.
        results: results per prediction, see `collect_results`.
        settings: settings of the records.
        class_totals: `TRUTH` of each class; None counts those of `records`.
    """
    shown = range(len(names)) if settings.show == "both" else ()
    space = settings.label_space
    num_classes = space.num_things + space.num_stuff
    predictions: list[dict[str, Any]] = [{"name": name} for name in names]
    for i in shown:
        predictions[i] |= _prediction(records, i, results[i], space.num_things)
    return {
        "version": VERSION,
        "title": title,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "predictions": predictions,
        "categories": _categories(records, [results[i] for i in shown], settings, class_totals),
        "confusion": [
            {
                "labels": [*space.thing_classes, *space.stuff_classes, "void"],
                **{
                    key: _sum(records, i, key, np.zeros((num_classes + 1, num_classes + 1), np.int64)).tolist()
                    for key in ("pixels", "segments")
                },
            }
            for i in shown
        ],
        "images": [_image(image, record, shown) for image, record in zip(images, records, strict=True)],
        "worst": [_worst(records, i) for i in shown],
        "compare": _compare(records, shown, settings),
    }


def _sum(records: Records, i: int, key: str, out: np.ndarray) -> np.ndarray:
    """Adds one sparse array of all images to `out`, for prediction `i`."""
    for record in records:
        if key in record["predictions"][i]:
            dense(record["predictions"][i][key], out)
    return out


def _prediction(records: Records, i: int, result: Mapping[str, Any], num_things: int) -> dict[str, Any]:
    numbers = [record["predictions"][i] for record in records if "codes" in record["predictions"][i]]
    occurs = [row["TP"] + row["FP"] + row["FN"] > 0 for row in result["per_class"].values()]
    counted = {"all": sum(occurs), "things": sum(occurs[:num_things]), "stuff": sum(occurs[num_things:])}
    return {
        "summary": {
            group.capitalize(): {**{key.lower(): value for key, value in result[group].items()}, "n": counted[group]}
            for group in GROUPS
        },
        "by_size": result["by_size"],
        "status": result["status"],
        "problems": result["problems"][:SHOWN_PROBLEMS],
        "num_problems": len(result["problems"]),
        "error_pixels": np.sum([np.zeros(len(CODES), int), *(n["codes"] for n in numbers)], axis=0).tolist(),
        "error_segments": {side: sum((Counter(n[side]) for n in numbers), Counter()) for side in ("fn", "fp")},
    }


def _categories(
    records: Records,
    results: Sequence[Mapping[str, Any]],
    settings: Settings,
    class_totals: Sequence[Sequence[int]] | None,
) -> list[dict[str, Any]]:
    space = settings.label_space
    names, colors = space.thing_classes + space.stuff_classes, space.thing_colors + space.stuff_colors
    if class_totals is None:
        class_totals = np.sum([record["truth"] for record in records], axis=0).T.tolist()
    return [
        {
            "id": id,
            "name": name,
            "isthing": cls < space.num_things,
            "color": list(color),
            **dict(zip(TRUTH, counted, strict=True)),
            "results": [{key: r["per_class"][name][key.upper()] for key in RESULTS} for r in results],
        }
        for cls, (id, name, color, counted) in enumerate(
            zip(space.thing_ids + space.stuff_ids, names, colors, class_totals, strict=True)
        )
    ]


def _image(image: ReportImage, record: Mapping[str, Any], shown: Sequence[int]) -> dict[str, Any]:
    rows = [record["predictions"][i]["row"] for i in shown]
    numbers = {"pq": [None if math.isnan(row["PQ"]) else round(row["PQ"], 3) for row in rows]}
    numbers |= {key: [row[key.upper()] for row in rows] for key in ("tp", "fp", "fn")}
    problems = problems_of(record)
    return {
        "id": image.key,
        "name": image.tasks[0].file_name,
        "size": record["size"],
        "photo": record["photo"],
        "thumb": record["thumb"],
        **(numbers if shown else {}),
        **({"problems": problems} if problems else {}),
    }


def _worst(records: Records, i: int) -> dict[int, list[dict[str, Any]]]:
    """Returns the worst segments of one prediction by class."""
    entries = [
        [*entry, place] for place, record in enumerate(records) for entry in record["predictions"][i].get("worst", ())
    ]
    found: dict[int, list[dict[str, Any]]] = {}
    for cls, area, kind, iou, side, n, box, place in largest_per_class(entries):
        entry = {"image": place, "kind": kind, "iou": iou, "segment": n, "side": side, "area": area, "bbox": box}
        found.setdefault(cls, []).append(entry)
    return found


def _compare(records: Records, shown: Sequence[int], settings: Settings) -> list[dict[str, Any]]:
    """Compares each two predictions."""
    if len(shown) < 2:
        return []
    no_scores = settings.empty_scores()
    sums, pq = [], []
    for i in shown:
        states = [no_scores.state() for _ in records]
        for record, state in zip(records, states, strict=True):
            dense(record["predictions"][i]["state"], state)
        mask = no_scores.quality["mask"]
        sums.append(np.array([mask.sums_of(state[0]) for state in states]))
        pq.append(np.array([record["predictions"][i]["row"]["PQ"] for record in records]))
    return [{"a": a, "b": b, **compare((sums[a], sums[b]), (pq[a], pq[b]))} for a, b in combinations(shown, 2)]

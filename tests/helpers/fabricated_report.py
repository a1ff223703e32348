"""Fabricated data of a report: random rectangles, and their errors by the simplest rules."""

import base64
import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np

CATEGORIES = [
    ("car", True, [20, 60, 200]),
    ("person", True, [220, 20, 60]),
    ("traffic sign", True, [220, 190, 0]),
    ("road", False, [128, 64, 128]),
    ("building", False, [90, 90, 90]),
    ("sky", False, [70, 130, 180]),
]
KINDS = {"false": 1, "missed": 2, "wrong class": 3}
THINGS = 3


def script(key: str, payload) -> str:
    """The script of one payload: JSON in which no character can end the script."""
    text = json.dumps(payload, allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return f"panopticReport({json.dumps(key)}, {text});\n"


def png(array: np.ndarray) -> str:
    """A gray map, or a map of segment numbers as RGB, as a data: PNG."""
    if array.dtype != np.uint8:
        array = np.stack([array >> 16 & 255, array >> 8 & 255, array & 255], axis=-1).astype(np.uint8)  # BGR
    return f"data:image/png;base64,{base64.b64encode(cv2.imencode('.png', array)[1]).decode()}"


def random_scene(rng, size=(96, 144)):
    """Ground truth (map, classes), with void in a corner: sky above road, and rectangles of other classes."""
    height, width = size
    numbers = np.ones(size, np.int32)
    classes = {1: 5, 2: 3}  # sky, road
    numbers[height // 2 :] = 2
    numbers[: height // 8, : width // 6] = 0
    for n in range(3, 3 + int(rng.integers(3, 8))):
        y, x = int(rng.integers(0, height - 16)), int(rng.integers(0, width - 20))
        numbers[y : y + int(rng.integers(10, 40)), x : x + int(rng.integers(12, 40))] = n
        classes[n] = int(rng.choice([0, 1, 2, 4]))
    return keep_visible(numbers, classes)


def distorted(rng, numbers, classes):
    """A prediction: the rectangles moved a little, some of another class, some lost, and one where nothing is."""
    height, width = numbers.shape
    predicted = np.where(numbers <= 2, np.maximum(numbers, 1), 2).astype(np.int32)
    found = {1: classes.get(1, 5), 2: classes.get(2, 3)}
    for n in sorted(set(classes) - {1, 2}):
        if rng.random() < 0.2:
            continue
        dy, dx = rng.integers(-5, 6, size=2)
        mask = np.roll(numbers == n, (dy, dx), (0, 1))
        predicted[mask] = n
        found[n] = int(rng.integers(0, 2)) if rng.random() < 0.2 else classes[n]
    y, x = int(rng.integers(0, height - 12)), int(rng.integers(0, width - 12))
    predicted[y : y + 12, x : x + 12] = 50
    found[50] = 1
    return keep_visible(predicted, found)


def keep_visible(numbers, classes):
    """Numbers the segments that have a pixel from 1 on."""
    kept = [n for n in classes if (numbers == n).any()]
    table = np.zeros(max([*classes, 0]) + 1, np.int32)
    table[kept] = np.arange(1, len(kept) + 1)
    return table[numbers], {k + 1: classes[n] for k, n in enumerate(kept)}


def compare(rng, truth, prediction):
    """(payload of one prediction, Counter of (class, "tp" | "fp" | "fn"), IoUs of the matches), by loops over pairs."""
    (gt, gt_classes), (pred, pred_classes) = truth, prediction
    iou = {}
    for a in gt_classes:
        for b in pred_classes:
            both = ((gt == a) & (pred == b)).sum()
            iou[a, b] = float(both / (((gt == a) & (gt > 0)) | ((pred == b) & (gt > 0))).sum())
    counts, ious, segments, missed = Counter(), [], [], []
    match = {b: a for (a, b), value in iou.items() if value > 0.5}
    for b, cls in pred_classes.items():
        best = max(gt_classes, key=lambda a: iou[a, b], default=None)
        good = b in match and gt_classes[match[b]] == cls
        kind = "matched" if good else "wrong class" if b in match else "false"
        score = round(float(rng.uniform(0.5, 1)), 3) if cls < THINGS else None
        entry = {"n": b, "category": cls, "score": score, "area": int((pred == b).sum()), "kind": kind}
        segments.append({**entry, "best": best, "iou": iou.get((best, b)), "match": match[b] if good else None})
        counts[cls, "tp" if good else "fp"] += 1
        if good:
            ious.append((cls, iou[match[b], b]))
    for a, cls in gt_classes.items():
        if any(s["match"] == a for s in segments):
            continue
        best = max(pred_classes, key=lambda b: iou[a, b], default=None)
        missed.append(
            {"n": a, "kind": "wrong class" if a in match.values() else "missed", "best": best, "iou": iou[a, best]}
        )
        counts[cls, "fn"] += 1
    codes = np.zeros(gt.shape, np.uint8)
    for segment in segments:
        if segment["kind"] != "matched":
            codes[pred == segment["n"]] = KINDS[segment["kind"]]
    for entry in missed:
        codes[(gt == entry["n"]) & (codes == 0)] = KINDS[entry["kind"]]
    codes[gt == 0] = 6
    return {"map": png(pred), "segments": segments, "missed": missed, "errors": png(codes)}, counts, ious


def quality(counts, ious, classes):
    """PQ, SQ, RQ in percent as means over the classes that occur, by the definition; None without a class."""
    rows = [class_quality(counts, ious, cls) for cls in classes]
    rows = [row for row in rows if row["pq"] is not None]
    totals = {key: sum(counts[cls, key] for cls in classes) for key in ("tp", "fp", "fn")}
    mean = {key: sum(row[key] for row in rows) / len(rows) if rows else None for key in ("pq", "sq", "rq")}
    return {**mean, "n": len(rows), **totals}


def class_quality(counts, ious, cls):
    """PQ, SQ, RQ of one class in percent, and its counts."""
    tp, fp, fn = (counts[cls, key] for key in ("tp", "fp", "fn"))
    total = sum(value for c, value in ious if c == cls)
    known = tp + fp + fn > 0
    pq, sq, rq = (
        total / (tp + (fp + fn) / 2) if known else 0,
        total / tp if tp else 0,
        tp / (tp + (fp + fn) / 2) if known else 0,
    )
    return {"pq": 100 * pq, "sq": 100 * sq, "rq": 100 * rq, "tp": tp, "fp": fp, "fn": fn} if known else {
        "pq": None, "sq": None, "rq": None, "tp": 0, "fp": 0, "fn": 0,
    }  # fmt: skip


def write_report_data(
    folder, num_images=6, predictions=("first", "second"), *, seed=0, scenes=None, names=None, title="Report"
):
    """Writes report_files of `num_images` images, `scenes` of them different; returns (index, payloads of the scenes).

    Args:
        predictions: names; none of them: a dataset alone.
        names: names of the classes instead of CATEGORIES'.
    """
    rng = np.random.default_rng(seed)
    files = Path(folder) / "report_files"
    for name in ("images", "photos", "thumbs"):
        (files / name).mkdir(parents=True, exist_ok=True)
    made = [make_scene(rng, predictions) for _ in range(min(scenes or num_images, num_images))]
    images, total, all_ious = [], [Counter() for _ in predictions], [[] for _ in predictions]
    for i in range(num_images):
        payload, results, photo, _ = made[i % len(made)]
        key = f"{i + 1:06d}"
        (files / "images" / f"{key}.js").write_text(script(key, {**payload, "photo": f"photos/{key}.jpg"}))
        (files / "photos" / f"{key}.jpg").write_bytes(photo)
        (files / "thumbs" / f"{key}.jpg").write_bytes(photo)
        per_image = [quality(counts, ious, range(len(CATEGORIES))) for counts, ious in results]
        for p, (counts, ious) in enumerate(results):
            total[p] += counts
            all_ious[p] += ious
        row = {"id": key, "name": f"street/{i:05d}.png", "size": payload["size"], "photo": True, "thumb": True}
        images.append({**row, **{k: [q[k] for q in per_image] for k in ("pq", "tp", "fp", "fn")}})
    index = make_index(title, predictions, images, total, all_ious, names or [name for name, _, _ in CATEGORIES])
    index["worst"] = [worst_of(made, p) for p in range(len(predictions))]
    (files / "index.js").write_text(script("index", index))
    return index, [scene[0] for scene in made]


def make_scene(rng, predictions):
    """(payload, [(counts, IoUs) of each prediction], JPEG, maps of the ground truth and of each prediction)."""
    truth = numbers, classes = random_scene(rng)
    maps = [numbers]
    segments = [
        {"n": n, "category": c, "area": int((numbers == n).sum()), "iscrowd": False} for n, c in classes.items()
    ]
    payload = {
        "size": list(numbers.shape),
        "ground_truth": {"map": png(numbers), "segments": segments},
        "predictions": [],
    }
    results = []
    for _ in predictions:
        prediction = distorted(rng, numbers, classes)
        maps.append(prediction[0])
        part, counts, ious = compare(rng, truth, prediction)
        payload["predictions"].append(part)
        results.append((counts, ious))
    colors = np.array([[60, 60, 60], *(CATEGORIES[c][2] for c in classes.values())])
    photo = np.clip(colors[numbers] + rng.normal(0, 14, (*numbers.shape, 3)), 0, 255).astype(np.uint8)
    return payload, results, cv2.imencode(".jpg", photo[..., ::-1])[1].tobytes(), maps


def make_index(title, predictions, images, total, all_ious, names):
    """The index; the differences of two predictions have made-up intervals."""
    classes = range(len(CATEGORIES))
    groups = {"All": classes, "Things": range(THINGS), "Stuff": range(THINGS, len(CATEGORIES))}
    categories = []
    for c, ((_, isthing, color), name) in enumerate(zip(CATEGORIES, names, strict=True)):
        results = [class_quality(counts, ious, c) for counts, ious in zip(total, all_ious, strict=True)]
        row = {
            "id": c + 1,
            "name": name,
            "isthing": isthing,
            "color": color,
            "segments": 10 + c,
            "pixels": 1000 * (c + 1),
        }
        categories.append({**row, "images": 3 + c, "results": results})
    shown = []
    for name, counts, ious in zip(predictions, total, all_ious, strict=True):
        summary = {group: quality(counts, ious, members) for group, members in groups.items()}
        shown.append({"name": name, "summary": summary, "status": {"scored": len(images)}})
    matrix = [[int(1000 * (i == j) + 37 * ((i * 7 + j * 3) % 5)) for j in range(7)] for i in range(7)]
    confusion = [
        {"labels": [*names, "void"], "pixels": matrix, "segments": [[v // 10 for v in row] for row in matrix]}
        for _ in predictions
    ]
    index = {
        "version": 1,
        "title": title,
        "created": "2026-11-28T10:00:00",
        "predictions": shown,
        "categories": categories,
    }
    index |= {"confusion": confusion, "images": images, "compare": []}
    if len(predictions) > 1:
        changes = [(i, row["pq"][1] - row["pq"][0]) for i, row in enumerate(images)]
        by_class = []
        for c, row in enumerate(categories):
            change = (row["results"][1]["pq"] or 0) - (row["results"][0]["pq"] or 0)
            by_class.append({"category": c, "delta": change, "ci": [change - 4, change + 4]})
        change = shown[1]["summary"]["All"]["pq"] - shown[0]["summary"]["All"]["pq"]
        delta = {"pq": change, "ci": [change - 2, change + 2], "samples": 1000}
        changes = sorted(changes, key=lambda item: -abs(item[1]))[:50]
        index["compare"] = [{"a": 0, "b": 1, "delta": delta, "by_class": by_class, "images": changes}]
    return index


def worst_of(made, p):
    """The wrong predicted and the missed segments of the first scenes, by class; `bbox` in fractions of the image."""
    worst = {}
    for i, (payload, _, _, maps) in enumerate(made[:50]):
        part = payload["predictions"][p]
        classes = {s["n"]: s["category"] for s in payload["ground_truth"]["segments"]}
        wrong = [(s["category"], s, "pred", maps[1 + p]) for s in part["segments"] if s["kind"] != "matched"]
        for cls, entry, side, numbers in [*wrong, *((classes[m["n"]], m, "gt", maps[0]) for m in part["missed"])]:
            ys, xs = np.nonzero(numbers == entry["n"])
            height, width = numbers.shape
            bbox = [xs.min() / width, ys.min() / height, (xs.max() + 1) / width, (ys.max() + 1) / height]
            row = {"image": i, "kind": entry["kind"], "iou": entry["iou"], "segment": entry["n"], "side": side}
            worst.setdefault(str(cls), []).append({**row, "bbox": [float(v) for v in bbox]})
    return {cls: rows[:12] for cls, rows in worst.items()}

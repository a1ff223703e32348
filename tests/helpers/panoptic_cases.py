"""Random pairs of panoptic maps, and slow restatements of the measures that share no code with the package."""

import json
from dataclasses import dataclass

import numpy as np
from PIL import Image

# The last class of either kind is never used by the pairs below: such classes are left out of averages.
NUM_THINGS, NUM_STUFF = 4, 4


@dataclass
class Pair:
    """One image. Segments are (id, class index, is crowd), class index as in `PanopticQuality`."""

    pred_map: np.ndarray
    pred_segments: list
    gt_map: np.ndarray
    gt_segments: list


def random_pair(rng, height=24, width=32, dtype=np.int32, empty_gt_segments=True):
    """Blocky ground truth with void, several crowds and several stuff segments of a class; a distorted copy of it."""
    count = int(rng.integers(0, 9))
    gt = np.zeros((height, width), dtype)
    ids = rng.permutation(np.unique(rng.integers(1, 256**3, size=count)))
    segments = []
    for segment_id in ids:
        y, x = rng.integers(0, height), rng.integers(0, width)
        gt[y : y + rng.integers(1, height), x : x + rng.integers(1, width)] = segment_id
        cls = int(rng.integers(0, NUM_THINGS + NUM_STUFF))
        if cls in (NUM_THINGS - 1, NUM_THINGS + NUM_STUFF - 1):
            cls -= 1
        segments.append((int(segment_id), cls, bool(rng.random() < 0.3)))
    present = set(np.unique(gt).tolist())
    if not empty_gt_segments:
        segments = [s for s in segments if s[0] in present]
    pred = np.zeros_like(gt)
    pred_segments = []
    new_ids = rng.choice(np.arange(1, 300), size=3 * count + 3, replace=False).tolist()
    for segment_id, cls, _ in [*segments, *segments[:2]]:
        if rng.random() < 0.15 or not (gt == segment_id).any():
            continue
        mask = np.roll(gt == segment_id, tuple(rng.integers(-3, 4, size=2)), axis=(0, 1)) & (rng.random(gt.shape) < 0.9)
        other = int(rng.integers(0, NUM_THINGS - 1))
        pred_id = new_ids.pop()
        pred[mask] = pred_id
        pred_segments.append((pred_id, cls if rng.random() < 0.8 else other, False))
    for _ in range(int(rng.integers(0, 3))):  # one that may lie on void and crowds
        y, x = rng.integers(0, height), rng.integers(0, width)
        pred_id = new_ids.pop()
        pred[y : y + 9, x : x + 9] = pred_id
        pred_segments.append((pred_id, int(rng.integers(0, NUM_THINGS - 1)), False))
    kept = set(np.unique(pred).tolist())
    return Pair(pred, [s for s in pred_segments if s[0] in kept], gt, segments)


def slow_counts(pairs, num_classes):
    """Per class {tp, fp, fn, iou, dagger: IoUs of overlapping pairs, gt: number of segments}, by loops over masks."""
    stats = [dict(tp=0, fp=0, fn=0, iou=0.0, dagger=[], gt=0) for _ in range(num_classes)]
    for pair in pairs:
        void = pair.gt_map == 0
        matched_pred = set()
        for gt_id, gt_class, crowd in pair.gt_segments:
            if crowd:
                continue
            stats[gt_class]["gt"] += 1
            gt_mask, found = pair.gt_map == gt_id, False
            for pred_id, pred_class, _ in pair.pred_segments:
                pred_mask = pair.pred_map == pred_id
                both = int((gt_mask & pred_mask).sum())
                if pred_class != gt_class or both == 0:
                    continue
                iou = both / int(((gt_mask | pred_mask) & ~(pred_mask & void)).sum())
                stats[gt_class]["dagger"].append(iou)
                if iou > 0.5:
                    found = True
                    matched_pred.add(pred_id)
                    stats[gt_class]["tp"] += 1
                    stats[gt_class]["iou"] += iou
            stats[gt_class]["fn"] += not found
        for pred_id, pred_class, _ in pair.pred_segments:
            if pred_id in matched_pred:
                continue
            ignored = void.copy()
            crowds = [gt_id for gt_id, gt_class, crowd in pair.gt_segments if crowd and gt_class == pred_class]
            if crowds:
                ignored |= pair.gt_map == crowds[-1]
            pred_mask = pair.pred_map == pred_id
            stats[pred_class]["fp"] += not 2 * (pred_mask & ignored).sum() > pred_mask.sum()
    return stats


def slow_miou(pairs, num_classes):
    """Mean over the classes in the ground truth of the IoU of the class maps; ground-truth void left out."""
    intersection, union, in_gt = np.zeros(num_classes), np.zeros(num_classes), np.zeros(num_classes, bool)
    for pair in pairs:
        classes = []
        for segment_map, segments in ((pair.gt_map, pair.gt_segments), (pair.pred_map, pair.pred_segments)):
            class_map = np.full(segment_map.shape, -1)
            for segment_id, cls, _ in segments:
                class_map[segment_map == segment_id] = cls
            classes.append(class_map)
        gt, pred = classes
        for cls in range(num_classes):
            intersection[cls] += ((gt == cls) & (pred == cls)).sum()
            union[cls] += (((gt == cls) | (pred == cls)) & (gt >= 0)).sum()
            in_gt[cls] |= (gt == cls).any()
    return float(np.mean(intersection[in_gt] / union[in_gt])) if in_gt.any() else float("nan")


def write_id_png(path, segment_map):
    ids = segment_map.astype(np.int64)
    Image.fromarray(np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)).save(path)


def coco_categories(num_things=NUM_THINGS, num_stuff=NUM_STUFF):
    """Category ids 3, 6, 9 ... of things, then stuff: not contiguous, so that a forgotten mapping shows."""
    kinds = [1] * num_things + [0] * num_stuff
    return [
        {"id": 3 * i + 3, "name": f"{'thing' if isthing else 'stuff'} {i}", "isthing": isthing, "color": [i, 9, 9]}
        for i, isthing in enumerate(kinds)
    ]


def write_data_set(folder, pairs, num_things=NUM_THINGS, num_stuff=NUM_STUFF):
    """Writes the ground truth of the pairs in COCO panoptic format; returns the arguments of `register_panoptic`."""
    (folder / "images").mkdir(parents=True)
    (folder / "panoptic").mkdir()
    content = {"images": [], "annotations": [], "categories": coco_categories(num_things, num_stuff)}
    for i, pair in enumerate(pairs):
        height, width = pair.gt_map.shape
        content["images"].append({"id": i + 1, "file_name": f"scene_{i}.jpg", "height": height, "width": width})
        segments = [
            {"id": s, "category_id": 3 * cls + 3, "iscrowd": int(crowd), "area": int((pair.gt_map == s).sum())}
            for s, cls, crowd in pair.gt_segments
        ]
        name = f"scene_{i}.png"
        content["annotations"].append({"image_id": i + 1, "file_name": name, "segments_info": segments})
        write_id_png(folder / "panoptic" / name, pair.gt_map)
    (folder / "panoptic.json").write_text(json.dumps(content))
    return {
        "images": str(folder / "images"),
        "panoptic_root": str(folder / "panoptic"),
        "panoptic_json": str(folder / "panoptic.json"),
    }


def write_prediction_files(folder, pairs, categories) -> dict[str, str]:
    """Ground truth and predictions in COCO panoptic format; returns the arguments of `evaluate_files`."""
    things = [c["id"] for c in categories if c["isthing"]]
    stuff = [c["id"] for c in categories if not c["isthing"]]
    ids = [*things, *stuff]
    truth = {"images": [], "annotations": [], "categories": categories}
    predictions = {"annotations": []}
    for i, pair in enumerate(pairs):
        name = f"{i:03d}.png"
        for which, segment_map in (("gt", pair.gt_map), ("pred", pair.pred_map)):
            (folder / which).mkdir(exist_ok=True)
            write_id_png(folder / which / name, segment_map)
        height, width = pair.gt_map.shape
        truth["images"].append({"id": i, "file_name": f"{i:03d}.jpg", "height": height, "width": width})
        gt, pred = (
            [
                {"id": s, "category_id": ids[c], "iscrowd": int(crowd), "area": int((segment_map == s).sum())}
                for s, c, crowd in segments
            ]
            for segment_map, segments in ((pair.gt_map, pair.gt_segments), (pair.pred_map, pair.pred_segments))
        )
        truth["annotations"].append({"image_id": i, "file_name": name, "segments_info": gt})
        predictions["annotations"].append({"image_id": i, "file_name": name, "segments_info": pred})
    (folder / "gt.json").write_text(json.dumps(truth))
    (folder / "pred.json").write_text(json.dumps(predictions))
    return {key: str(folder / name) for key, name in
            (("gt_json", "gt.json"), ("gt_root", "gt"), ("pred_json", "pred.json"), ("pred_root", "pred"))}  # fmt: skip

"""Result files of an instance model and a semantic model on random images, and a ground truth for them."""

import json
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as mask_api

CATEGORIES = [  # bright: near black panopticapi draws the id 0, which is void, for an instance now and then
    {"id": 5, "name": "car", "isthing": 1, "color": [100, 120, 140]},
    {"id": 2, "name": "road", "isthing": 0, "color": [200, 120, 140]},
    {"id": 9, "name": "person", "isthing": 1, "color": [100, 200, 140]},
    {"id": 7, "name": "sky", "isthing": 0, "color": [100, 120, 200]},
]
IDS = [2, 5, 7, 9]


def rle_of(mask):
    rle = mask_api.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def write_outputs(folder: Path, num: int, seed: int = 0):
    """Writes images.json, instances.json, semantic.json and folders labels and logits with the same semantic maps."""
    rng = np.random.default_rng(seed)
    images, instances, semantic = [], [], []
    for name in ("labels", "logits"):
        (folder / name).mkdir(parents=True)
    for i in range(num):
        height, width = (int(x) for x in rng.integers(8, 30, 2))
        image_id = i if i % 2 else f"image {i}"
        images.append({"id": image_id, "file_name": f"{i:03d}.jpg", "height": height, "width": width})
        labels = rng.choice(IDS, (-(-height // 6), -(-width // 6))).repeat(6, 0).repeat(6, 1)[:height, :width]
        for category_id in rng.permutation(IDS).tolist():
            if (labels == category_id).any():
                mask = rle_of(labels == category_id)
                semantic.append({"image_id": image_id, "category_id": category_id, "segmentation": mask})
        Image.fromarray(labels.astype(np.uint8)).save(folder / "labels" / f"{i:03d}.png")
        np.save(folder / "logits" / f"{i:03d}.npy", np.stack([(labels == c) * 8.0 - 3 for c in IDS]).astype(np.float16))
        for _ in range(rng.integers(0, 8)):
            mask = np.zeros((height, width), bool)
            y, x = rng.integers(0, height), rng.integers(0, width)
            mask[y : y + rng.integers(1, 20), x : x + rng.integers(0, 20)] = True
            mask &= rng.random(mask.shape) < 0.95
            score = float(rng.integers(8, 20) / 20)
            about = {"image_id": image_id, "category_id": int(rng.choice([5, 9])), "score": score}
            instances.append({**about, "segmentation": rle_of(mask)})
    (folder / "images.json").write_text(json.dumps({"images": images, "categories": CATEGORIES}))
    (folder / "instances.json").write_text(json.dumps(instances))
    (folder / "semantic.json").write_text(json.dumps(semantic))
    return images, instances, semantic


def write_ground_truth(folder: Path, images, instances, seed: int = 0):
    """Writes gt.json and the PNGs in gt for the files of `write_outputs`.

    Most of the instances lie on the semantic labels, some of them as crowds. The first rows are void.
    """
    rng = np.random.default_rng(seed)
    (folder / "gt").mkdir()
    things = {category["id"] for category in CATEGORIES if category["isthing"]}
    annotations = []
    for image in images:
        name = image["file_name"].replace(".jpg", ".png")
        labels = np.asarray(Image.open(folder / "labels" / name))
        ids, segments = np.zeros(labels.shape, np.int32), []
        masks = [(labels == c, c) for c in np.unique(labels).tolist() if c not in things]
        for entry in instances:
            if entry["image_id"] == image["id"] and rng.random() < 0.6:
                masks.append((mask_api.decode(entry["segmentation"]) > 0, entry["category_id"]))
        for number, (mask, category_id) in enumerate(masks, start=1):
            ids[mask] = number
            crowd = int(category_id in things and rng.random() < 0.15)
            segments.append({"id": number, "category_id": category_id, "iscrowd": crowd})
        ids[: len(ids) // 5] = 0
        write_ids(folder / "gt" / name, ids)
        segments = [segment for segment in segments if (ids == segment["id"]).any()]
        annotations.append({"image_id": image["id"], "file_name": name, "segments_info": segments})
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    (folder / "gt.json").write_text(json.dumps(content))


def write_ids(path: Path, ids):
    """Writes a panoptic PNG of ids below 256."""
    cv2.imwrite(str(path), np.stack([np.zeros_like(ids), np.zeros_like(ids), ids], axis=-1).astype(np.uint8))

"""A random tiny COCO panoptic dataset on disk, with an instances json, for tests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as mask_api

from panoptic_fusion.data.coco_panoptic import PanopticFiles

CATEGORIES = [
    {"id": 3, "name": "sky", "isthing": 0, "color": [1, 2, 3]},
    {"id": 7, "name": "road", "isthing": 0, "color": [4, 5, 6]},
    {"id": 9, "name": "tree", "isthing": 0, "color": [7, 8, 9]},
    {"id": 4, "name": "car", "isthing": 1, "color": [10, 11, 12]},
    {"id": 20, "name": "person", "isthing": 1, "color": [13, 14, 15]},
]
STUFF = {3: 0, 7: 1, 9: 2}  # category id -> contiguous id, by hand
THINGS = {4: 0, 20: 1}


def save_id_map(id_map: np.ndarray, path: Path) -> None:
    rgb = np.stack([id_map % 256, id_map // 256 % 256, id_map // 65536], axis=-1).astype(np.uint8)
    Image.fromarray(rgb).save(path)


def random_segments(
    rng: np.random.Generator, height: int, width: int, num_things: int
) -> tuple[np.ndarray, list[dict], list[tuple[int, np.ndarray]]]:
    """An id map (H, W) with void in it, its segments_info, and the whole masks of the things, which overlap."""
    ids = np.unique(rng.integers(1, 256**3, size=2 * num_things + 9))
    ids = rng.permutation(ids)[: num_things + 2].tolist()
    id_map = np.zeros((height, width), dtype=np.int64)
    horizon = int(rng.integers(3, height - 2))
    id_map[:horizon], id_map[horizon:] = ids[0], ids[1]
    segments = [{"id": ids[0], "category_id": 3}, {"id": ids[1], "category_id": int(rng.choice([7, 9]))}]
    whole = []
    for segment_id in ids[2:]:
        y, x = int(rng.integers(0, height - 3)), int(rng.integers(0, width - 3))
        h, w = int(rng.integers(3, height // 2)), int(rng.integers(3, width // 2))
        category_id = int(rng.choice([4, 20]))
        id_map[y : y + h, x : x + w] = segment_id
        mask = np.zeros((height, width), dtype=np.uint8)
        mask[y : y + h, x : x + w] = 1
        whole.append((category_id, mask))
        segments.append({"id": segment_id, "category_id": category_id, "iscrowd": int(rng.random() < 0.2)})
    id_map[:2, : width // 2] = 0
    kept = []
    for segment in segments:
        rows, columns = np.nonzero(id_map == segment["id"])
        if len(rows):
            box = [columns.min(), rows.min(), columns.max() - columns.min() + 1, rows.max() - rows.min() + 1]
            kept.append({"iscrowd": 0, **segment, "area": len(rows), "bbox": [int(v) for v in box]})
    return id_map, kept, whole


def make_tiny(root: Path, seed: int, num_images: int = 3, instances: bool = True) -> PanopticFiles:
    """Writes images/, png/, panoptic.json and instances.json below `root`."""
    rng = np.random.default_rng(seed)
    (root / "images").mkdir(parents=True)
    (root / "png").mkdir()
    panoptic = {"images": [], "annotations": [], "categories": CATEGORIES}
    objects = {"images": [], "annotations": [], "categories": [c for c in CATEGORIES if c["isthing"]]}
    for index in range(num_images):
        height, width = int(rng.integers(16, 31)), int(rng.integers(16, 41))
        image_id, name = 10 * index + 5, f"image{index}.{'jpg' if index % 2 else 'png'}"
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / name)
        id_map, segments, whole = random_segments(rng, height, width, num_things=int(rng.integers(2, 6)))
        save_id_map(id_map, root / "png" / f"map{index}.png")
        panoptic["images"].append({"id": image_id, "file_name": name, "height": height, "width": width})
        panoptic["annotations"].append(
            {"image_id": image_id, "file_name": f"map{index}.png", "segments_info": segments}
        )
        for category_id, mask in whole:
            objects["annotations"].append(_object(len(objects["annotations"]), image_id, category_id, mask))
    objects["images"] = panoptic["images"]
    (root / "panoptic.json").write_text(json.dumps(panoptic))
    (root / "instances.json").write_text(json.dumps(objects))
    return PanopticFiles(
        str(root / "images"),
        str(root / "png"),
        str(root / "panoptic.json"),
        str(root / "instances.json") if instances else None,
    )


def _object(index: int, image_id: int, category_id: int, mask: np.ndarray) -> dict:
    rows, columns = np.nonzero(mask)
    x0, y0, x1, y1 = (int(v) for v in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    if index % 3 == 0:
        segmentation = [[x0, y0, x1, y0, x1, y1, x0, y1]]
    else:
        rle = mask_api.encode(np.asfortranarray(mask))
        segmentation = {"size": rle["size"], "counts": rle["counts"].decode("ascii")}
        if index % 3 == 1:  # the uncompressed form, run by run in column order
            flat, counts, value = mask.T.reshape(-1).tolist(), [0], 0
            for pixel in flat:
                if pixel != value:
                    counts.append(0)
                    value = pixel
                counts[-1] += 1
            segmentation["counts"] = counts
    return {
        "id": index + 1,
        "image_id": image_id,
        "category_id": category_id,
        "iscrowd": 0,
        "area": int(mask.sum()),
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "segmentation": segmentation,
    }

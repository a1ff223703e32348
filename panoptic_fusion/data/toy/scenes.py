"""Toy scenes: small synthetic street scenes in COCO panoptic format, available without a download.

`generate_toy_scenes` writes a train and a val split of scenes from `render_scene`. The panoptic PNGs hold the visible
parts of the layers of a scene; ``instances.json`` holds the overlapping amodal masks of its things.
"""

import json
import os
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as mask_util

from panoptic_fusion.data.toy.rendering import (
    CASTS,
    CATEGORIES,
    CATEGORY_OF_NAME,
    MIN_VISIBLE_AREA,
    Layer,
    Scene,
    render_scene,
)
from panoptic_fusion.errors import UserError
from panoptic_fusion.files import temporary_folder

__all__ = ["CATEGORIES", "Layer", "Scene", "generate_toy_scenes", "render_scene", "scene_to_coco"]

FORMAT_VERSION = 1  # increase it when the same parameters produce other scenes: existing folders are then regenerated
MARKER = "toy_scenes.json"


def scene_to_coco(scene: Scene, rng: np.random.Generator) -> tuple[np.ndarray, list[dict], list[dict]]:
    """Computes the annotations of a scene.

    Returns ``id_map`` (H, W) int32 of segment ids (0 = void), the panoptic ``segments_info`` (id, category_id, iscrowd,
    bbox XYWH and area of the visible pixels), and the instances (segment_id, category_id, iscrowd, bbox and area of
    the amodal mask, ``segmentation`` as compressed RLE). Ids are colors near the category's color, drawn from ``rng``.
    Stuff layers of one category become one segment. Stuff of fewer than `MIN_VISIBLE_AREA` visible pixels becomes void.
    """
    front = scene.layer_map()
    segments: dict[object, list[int]] = {}
    for index, layer in enumerate(scene.layers):
        if layer.category is not None:
            segments.setdefault(index if layer.isthing else layer.category, []).append(index)
    id_map = np.zeros(front.shape, np.int32)
    segments_info, instances, used = [], [], {0}
    for indices in segments.values():
        layer = scene.layers[indices[0]]
        category = CATEGORY_OF_NAME[layer.category]
        visible = np.isin(front, indices)
        if visible.sum() < MIN_VISIBLE_AREA:
            continue
        identity = 0
        while identity in used:
            spread = 18 if layer.isthing or identity else 0
            r, g, b = np.clip(np.array(category["color"]) + rng.integers(-spread, spread + 1, 3), 0, 255)
            identity = int(r) + 256 * int(g) + 65536 * int(b)
        used.add(identity)
        id_map[visible] = identity
        info = {"id": identity, "category_id": category["id"], "iscrowd": int(layer.iscrowd)}
        segments_info.append({**info, "bbox": _bbox(visible), "area": int(visible.sum())})
        if layer.isthing:
            rle = mask_util.encode(np.asfortranarray(layer.mask.astype(np.uint8)))
            instances.append({
                "segment_id": identity, "category_id": category["id"], "iscrowd": int(layer.iscrowd),
                "bbox": _bbox(layer.mask), "area": int(layer.mask.sum()),
                "segmentation": {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode("ascii")},
            })  # fmt: skip
    return id_map, segments_info, instances


def _bbox(mask: np.ndarray) -> list[int]:
    x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
    return [x, y, w, h]


def _write_image(path: Path, rgb: np.ndarray) -> None:
    options = [cv2.IMWRITE_JPEG_QUALITY, 95] if path.suffix == ".jpg" else []
    path.write_bytes(cv2.imencode(path.suffix, np.ascontiguousarray(rgb[..., ::-1]), options)[1].tobytes())


def _write_split(root: Path, count: int, seed: int, split: int, size: tuple[int, int], depth: str) -> None:
    """Writes a split; image i depends only on (seed, split, i, size, depth), not on the number of images."""
    (root / "images").mkdir(parents=True)
    (root / "panoptic").mkdir()
    images, panoptic, instances = [], [], []
    for index in range(count):
        rng = np.random.default_rng([seed, split, index])
        scene = render_scene(rng, size, depth)
        id_map, segments_info, objects = scene_to_coco(scene, rng)
        name, image_id = f"{index:06d}", index + 1
        _write_image(root / "images" / f"{name}.jpg", scene.image)
        colors = np.stack([id_map >> shift & 255 for shift in (0, 8, 16)], -1).astype(np.uint8)
        _write_image(root / "panoptic" / f"{name}.png", colors)
        images.append({"id": image_id, "file_name": f"{name}.jpg", "height": size[0], "width": size[1]})
        panoptic.append({"image_id": image_id, "file_name": f"{name}.png", "segments_info": segments_info})
        for item in objects:
            instances.append({"id": len(instances) + 1, "image_id": image_id, **item})
    info = {"description": "toy scenes of panoptic_fusion", "version": str(FORMAT_VERSION)}
    things = [{"id": c["id"], "name": c["name"]} for c in CATEGORIES if c["isthing"]]
    head = {"info": info, "images": images}
    (root / "panoptic.json").write_text(json.dumps({**head, "annotations": panoptic, "categories": list(CATEGORIES)}))
    (root / "instances.json").write_text(json.dumps({**head, "annotations": instances, "categories": things}))


def _is_current(root: Path, parameters: dict) -> bool:
    """Returns whether ``root`` holds toy scenes made with ``parameters``; rejects a folder with other content."""
    marker = root / MARKER
    if marker.is_file():
        try:
            return json.loads(marker.read_text()) == parameters
        except ValueError:
            return False
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UserError(
            f"{root} exists and does not contain toy scenes (no {MARKER} in it); choose an empty or a new folder."
        )
    return False


def generate_toy_scenes(
    root: str | os.PathLike,
    *,
    num_train: int = 400,
    num_val: int = 100,
    seed: int = 0,
    size: tuple[int, int] = (128, 192),
    depth: str = "by-class",
) -> dict[str, dict[str, str]]:
    """Writes toy scenes to ``root``; a call with the parameters of existing scenes returns immediately.

    ``root/{train,val}`` each hold ``images/``, ``panoptic/``, ``panoptic.json`` and ``instances.json`` (amodal masks).
    The scenes are written to a temporary folder next to ``root``, which is renamed when complete. An interrupted call
    therefore leaves no partial dataset. Toy scenes made with other parameters are replaced.

    Args:
        num_train, num_val: number of images per split, at least 1.
        seed: at least 0.
        size: (H, W), at least 96 x 96.
        depth: "by-class" or "class-free", see `render_scene`.

    Returns:
        For "train" and "val": images, panoptic_root, panoptic_json, instances_json, the arguments of
        `register_panoptic`.

    Raises:
        UserError: if an argument is out of range, or ``root`` holds something other than toy scenes.
    """
    root = Path(root).absolute()
    if min(num_train, num_val) < 1 or seed < 0:
        raise UserError(f"num_train={num_train} and num_val={num_val} must be at least 1, seed={seed} at least 0.")
    if len(size) != 2 or min(size) < 96:
        raise UserError(
            f"size={tuple(size)} must be (height, width), both at least 96: smaller things cannot be told apart."
        )
    if depth not in CASTS:
        raise UserError(f"depth={depth!r} must be one of {', '.join(CASTS)}.")
    height, width = (int(n) for n in size)
    parameters = {"version": FORMAT_VERSION, "num_train": num_train, "num_val": num_val, "seed": seed}
    parameters["size"] = [height, width]
    if depth != "by-class":  # markers of scenes that older versions wrote stay valid
        parameters["depth"] = depth
    if not _is_current(root, parameters):
        root.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(f".{root.name}.", root.parent) as work:
            fresh = work / "new"
            for split, (name, count) in enumerate((("train", num_train), ("val", num_val))):
                _write_split(fresh / name, count, seed, split, (height, width), depth)
            (fresh / MARKER).write_text(json.dumps(parameters))
            if not _is_current(root, parameters):  # another process may have been faster
                if root.exists():
                    os.replace(root, work / "old")
                os.replace(fresh, root)
    return {name: _paths(root / name) for name in ("train", "val")}


def _paths(split: Path) -> dict[str, str]:
    names = {"images": "images", "panoptic_root": "panoptic"}
    names |= {"panoptic_json": "panoptic.json", "instances_json": "instances.json"}
    return {key: str(split / name) for key, name in names.items()}

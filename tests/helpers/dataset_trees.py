"""Builders of tiny datasets in the official layouts: real folders, file names and encodings, images of some 60 pixels.

Every builder returns nothing: a test looks at the files, as the code under test does.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
from cityscapesscripts.helpers.labels import labels as cityscapes_labels
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from PIL import Image

from panoptic_fusion.data.datasets.idd import idd_labels
from panoptic_fusion.data.datasets.vistas import vistas_categories

CITIES = {"train": ("aachen", "dusseldorf"), "val": ("frankfurt",), "test": ("berlin",)}
# Vistas' file names are keys like these; the first image of each pair is portrait.
VISTAS_KEYS = {
    "train": ("-0LzJjvvBSQzyHTHyHpUXA", "zz7AsSvLW4wg1T5m-E_Uvw", "M_empty_image_0000000A"),
    "val": ("qWn4_Zn2YRdqkTyXk3ZJiQ",),
}


def _photo(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def _box(rng: np.random.Generator, height: int, width: int, least: int = 3) -> tuple[slice, slice]:
    h, w = rng.integers(least, height // 2 + 1), rng.integers(least, width // 2 + 1)
    y, x = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
    return slice(y, y + h), slice(x, x + w)


# -- Cityscapes ------------------------------------------------------------------------------------------------------


def cityscapes_instance_ids(rng: np.random.Generator, height: int = 32, width: int = 64) -> np.ndarray:
    """A random instanceIds map (H, W) uint16: every stuff label, instances, groups, void of every kind."""
    ids = np.zeros((height, width), np.uint16)
    stuff = [label.id for label in cityscapes_labels if label.id >= 0 and not label.hasInstances]
    for label_id in rng.choice(stuff, 6):
        ids[_box(rng, height, width)] = label_id
    count: dict[int, int] = {}
    for label_id in rng.integers(24, 34, rng.integers(0, 9)).tolist():  # with caravan and trailer, which are void
        if rng.random() < 0.3:
            ids[_box(rng, height, width)] = label_id  # a group
        else:
            ids[_box(rng, height, width)] = label_id * 1000 + count.get(label_id, 0)
            count[label_id] = count.get(label_id, 0) + 1
    ids[-4:, width // 4 : 3 * width // 4] = 1  # ego vehicle
    ids[:1] = ids[:, :1] = 3  # out of roi
    ids[:, -1:] = 2  # rectification border
    return ids


def make_cityscapes(root: Path, rng: np.random.Generator, images_per_city: int = 3, splits=("train", "val")) -> None:
    """leftImg8bit and gtFine; the first image of each split is all void, the test split has only void."""
    for split in splits:
        for city in CITIES[split]:
            folders = [root / kind / split / city for kind in ("leftImg8bit", "gtFine")]
            for folder in folders:
                folder.mkdir(parents=True)
            for index in range(images_per_city):
                name = f"{city}_{index:06d}_000019"
                height, width = (64, 32) if index == 2 else (32, 64)
                ids = cityscapes_instance_ids(rng, height, width)
                if split == "test" or (city == CITIES[split][0] and index == 0):
                    ids = np.where(ids == 1, 1, 0).astype(np.uint16)
                _photo(rng, height, width).save(folders[0] / f"{name}_leftImg8bit.png")
                Image.fromarray(ids).save(folders[1] / f"{name}_gtFine_instanceIds.png")
                label_ids = np.where(ids >= 1000, ids // 1000, ids).astype(np.uint8)
                Image.fromarray(label_ids).save(folders[1] / f"{name}_gtFine_labelIds.png")
                colors = np.zeros((256, 4), np.uint8)
                for label in cityscapes_labels:
                    colors[label.id] = (*label.color, 255)
                Image.fromarray(colors[label_ids]).save(folders[1] / f"{name}_gtFine_color.png")
                polygons = {"imgHeight": height, "imgWidth": width, "objects": []}
                (folders[1] / f"{name}_gtFine_polygons.json").write_text(json.dumps(polygons))


# -- Vistas ----------------------------------------------------------------------------------------------------------


def vistas_config(groups: tuple[str, ...] = ()) -> dict:
    """config.json as in v1.2: 65 evaluated labels and the void label Unlabeled; `groups`: further labels after them."""
    rows = [(c["supercategory"], c["name"], c["color"], bool(c["isthing"]), True) for c in vistas_categories()]
    rows.append(("void--unlabeled", "Unlabeled", [0, 0, 0], False, False))
    rows += [(name, name.rsplit("--", 1)[-1], [1, 2, 3], True, True) for name in groups]
    keys = ("name", "readable", "color", "instances", "evaluate")
    return {
        "labels": [dict(zip(keys, row, strict=True)) for row in rows],
        "version": 1.1,
        "mapping": "public",
        "folder_structure": "{split}/{content}/{image:s}.{extension:s}",
    }


def vistas_instances(rng: np.random.Generator, config: dict, height: int, width: int) -> np.ndarray:
    """A random instance map (H, W) uint16, 256 * class + instance, with void."""
    values = np.full((height, width), 65 * 256, np.uint16)
    count: dict[int, int] = {}
    for index in rng.integers(0, len(config["labels"]), 14).tolist():
        instance = 0
        if config["labels"][index]["instances"]:
            instance = count.get(index, 0)
            count[index] = instance + 1
        values[_box(rng, height, width)] = 256 * index + instance
    return values


def make_vistas(root: Path, rng: np.random.Generator, groups: tuple[str, ...] = (), panoptic: bool = False) -> None:
    """config.json, images, labels (palette), instances (16 bit); with `panoptic` also the official panoptic folder."""
    config = vistas_config(groups)
    root.mkdir(parents=True, exist_ok=True)
    (root / "config.json").write_text(json.dumps(config))
    palette = [v for label in config["labels"] for v in label["color"]]
    for split, folder in (("train", "training"), ("val", "validation")):
        entries = {"images": [], "annotations": [], "categories": vistas_categories()}
        for kind in ("images", "labels", "instances") + (("panoptic",) if panoptic else ()):
            (root / folder / kind).mkdir(parents=True)
        for number, key in enumerate(VISTAS_KEYS[split]):
            height, width = ((80, 60), (60, 80))[number % 2]
            values = vistas_instances(rng, config, height, width)
            if "empty" in key:
                values[:] = 65 * 256
            _photo(rng, height, width).save(root / folder / "images" / f"{key}.jpg")
            label_image = Image.fromarray((values // 256).astype(np.uint8)).convert("P")
            label_image.putpalette(palette)
            label_image.save(root / folder / "labels" / f"{key}.png")
            Image.fromarray(values).save(root / folder / "instances" / f"{key}.png")
            if panoptic:
                _add_official_vistas(root / folder / "panoptic", entries, key, values)
        if panoptic:
            (root / folder / "panoptic" / "panoptic_2018.json").write_text(json.dumps(entries))


def _add_official_vistas(folder: Path, entries: dict, key: str, values: np.ndarray) -> None:
    """Writes one image of the official panoptic folder, with other segment ids than ours."""
    ids, segments = np.zeros(values.shape, np.uint32), []
    for value in np.unique(values[values < 65 * 256]).tolist():
        mask = values == value
        ids[mask] = 70000 + value
        y, x = np.nonzero(mask)
        box = [int(x.min()), int(y.min()), int(np.ptp(x)) + 1, int(np.ptp(y)) + 1]
        segments.append(
            {"id": 70000 + value, "category_id": value // 256 + 1, "iscrowd": 0, "area": int(mask.sum()), "bbox": box}
        )
    rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
    Image.fromarray(rgb).save(folder / f"{key}.png")
    entries["images"].append({"id": key, "file_name": f"{key}.jpg", "height": ids.shape[0], "width": ids.shape[1]})
    entries["annotations"].append({"image_id": key, "file_name": f"{key}.png", "segments_info": segments})


VISTAS_V2_LABELS = (  # name, readable, instances, evaluate: labels of the official config in its order
    ("animal--bird", "Bird", True, True),
    ("construction--barrier--ambiguous", "Ambiguous Barrier", False, False),
    ("construction--flat--road", "Road", False, True),
    ("human--person--individual", "Person", True, True),
    ("human--person--person-group", "Person Group", False, False),
    ("nature--sky", "Sky", False, True),
    ("object--vehicle--car", "Car", True, True),
    ("void--unlabeled", "Unlabeled", False, False),
)


def make_vistas_v2(root: Path, rng: np.random.Generator, folders=("training", "validation")) -> None:
    """A download of release 2.0: both configs, and per split images and the folders of both versions.

    The v1.2 half is that of `make_vistas`, moved into its folder.
    """
    make_vistas(root, rng)
    (root / "config.json").rename(root / "config_v1.2.json")
    keys = ("name", "readable", "instances", "evaluate")
    labels = [{**dict(zip(keys, row, strict=True)), "color": [9 * i, 5, 6]} for i, row in enumerate(VISTAS_V2_LABELS)]
    (root / "config_v2.0.json").write_text(json.dumps({"labels": labels, "version": "2.0"}))
    for official, folder in zip(("training", "validation"), folders, strict=True):
        (root / official).rename(root / folder)
        (root / folder / "v1.2").mkdir()
        for kind in ("labels", "instances"):
            (root / folder / kind).rename(root / folder / "v1.2" / kind)
        (root / folder / "v2.0" / "instances").mkdir(parents=True)
        for image in (root / folder / "images").iterdir():
            width, height = Image.open(image).size
            classes = rng.integers(0, len(labels), (height // 10, width // 10))
            values = 256 * classes + rng.integers(0, 3, classes.shape)
            values = values.repeat(10, 0).repeat(10, 1).astype(np.uint16)
            Image.fromarray(values).save(root / folder / "v2.0" / "instances" / f"{image.stem}.png")


# -- IDD -------------------------------------------------------------------------------------------------------------


def idd_annotation(rng: np.random.Generator, height: int, width: int) -> dict:
    """A random polygon json: all labels, groups, deleted, too short, unknown ones, polygons over the border."""
    names = list(idd_labels())
    objects = []
    for _ in range(rng.integers(4, 16)):
        label = str(rng.choice(names))
        if rng.random() < 0.2:
            label = str(rng.choice(["cargroup", "persongroup", "bicyclegroup", "wallgroup", "polegroup", "spaceship"]))
        points = rng.uniform(-5, max(height, width) + 5, (rng.integers(3, 8), 2)).round(2)
        objects.append({"id": len(objects), "label": label, "polygon": points.tolist(), "deleted": 0, "draw": True})
    objects.append({"label": "car", "polygon": [[1, 1]], "deleted": 0})
    objects.append({"label": "truck", "polygon": [[0, 0], [width, 0], [width, height]], "deleted": 1})
    objects.append({"label": "bus", "polygon": [[3, 3], [width - 3, 5]], "deleted": 0})
    return {"imgHeight": height, "imgWidth": width, "objects": objects}


def make_idd(root: Path, rng: np.random.Generator, frames: int = 3) -> None:
    """Two drives with the same frame numbers in train, one in val; one image is a JPEG, one is without an object."""
    for split, drives in (("train", ("0", "127")), ("val", ("201",))):
        for drive in drives:
            folders = [root / kind / split / drive for kind in ("leftImg8bit", "gtFine")]
            for folder in folders:
                folder.mkdir(parents=True)
            for index in range(frames):
                name = f"{7 * index:06d}"
                height, width = ((54, 96), (72, 40))[index % 2]
                annotation = idd_annotation(rng, height, width)
                if drive == "127" and index == 0:
                    annotation["objects"] = []
                suffix = "jpg" if drive == "127" and index == 1 else "png"
                _photo(rng, height, width).save(folders[0] / f"{name}_leftImg8bit.{suffix}")
                (folders[1] / f"{name}_gtFine_polygons.json").write_text(json.dumps(annotation))


# -- COCO ------------------------------------------------------------------------------------------------------------


def make_coco(root: Path, rng: np.random.Generator, zipped: bool = True) -> None:
    """Images and both jsons; if `zipped`, the PNGs are inside of annotations/panoptic_{split}2017.zip."""
    (root / "annotations").mkdir(parents=True)
    for split, numbers in (("train", (9, 25, 30)), ("val", (139, 285))):
        (root / f"{split}2017").mkdir()
        (root / f"panoptic_{split}2017").mkdir()
        categories = [{**c, "supercategory": "x"} for c in COCO_CATEGORIES]
        panoptic = {"info": {}, "licenses": [], "images": [], "annotations": [], "categories": categories}
        instances = {
            "images": panoptic["images"],
            "annotations": [],
            "categories": [c for c in categories if c["isthing"]],
        }
        for number in numbers:
            height, width = (48, 64) if number % 2 else (64, 48)
            name = f"{number:012d}"
            _photo(rng, height, width).save(root / f"{split}2017" / f"{name}.jpg")
            panoptic["images"].append({"id": number, "file_name": f"{name}.jpg", "height": height, "width": width})
            ids, segments = _coco_segments(rng, height, width, number)
            rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
            Image.fromarray(rgb).save(root / f"panoptic_{split}2017" / f"{name}.png")
            panoptic["annotations"].append({"image_id": number, "file_name": f"{name}.png", "segments_info": segments})
            for index in range(3):  # larger than what the panoptic PNG leaves of them: they overlap
                x, y, w, h = 2 + index, 3, 20, 15
                polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
                instance = {
                    "id": 10 * number + index,
                    "image_id": number,
                    "category_id": 1,
                    "iscrowd": 0,
                    "area": w * h,
                }
                instances["annotations"].append({**instance, "bbox": [x, y, w, h], "segmentation": [polygon]})
        (root / "annotations" / f"panoptic_{split}2017.json").write_text(json.dumps(panoptic))
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(instances))
        if zipped:
            folder = root / f"panoptic_{split}2017"
            with zipfile.ZipFile(root / "annotations" / f"{folder.name}.zip", "w") as file:
                for path in sorted(folder.iterdir()):
                    file.write(path, f"{folder.name}/{path.name}")
                    file.writestr(f"__MACOSX/{folder.name}/._{path.name}", b"x")
                    path.unlink()
            folder.rmdir()


def _coco_segments(rng: np.random.Generator, height: int, width: int, number: int) -> tuple[np.ndarray, list[dict]]:
    """Segment ids (H, W) up to 24 bits and their list; two stuff classes, three people, a crowd, void."""
    ids, segments = np.zeros((height, width), np.int64), []
    regions = [(200, 0, slice(0, 20), slice(0, width)), (149, 0, slice(24, 40), slice(0, width))]
    regions += [(1, 0, slice(3, 18), slice(2 + 8 * i, 8 + 8 * i)) for i in range(3)]
    regions.append((3, 1, slice(26, 36), slice(30, 44)))
    for category_id, iscrowd, rows, columns in regions:
        segment_id = int(rng.integers(1, 2**24)) if number % 2 else len(segments) + 1
        ids[rows, columns] = segment_id
        segments.append({"id": segment_id, "category_id": category_id, "iscrowd": iscrowd})
    for segment in segments:
        y, x = np.nonzero(ids == segment["id"])
        segment["area"] = len(y)
        segment["bbox"] = [int(x.min()), int(y.min()), int(np.ptp(x)) + 1, int(np.ptp(y)) + 1]
    return ids, segments


# -- CamVid ----------------------------------------------------------------------------------------------------------

CAMVID_NAMES = {
    "train": ("0001TP_006690", "0001TP_008520", "0006R0_f00930", "0016E5_07957", "0016E5_08370"),
    "val": ("0016E5_07959", "0016E5_08159"),
    "test": ("0001TP_008550", "Seq05VD_f00000"),
}
# The lines of Cambridge's label_colors.txt, which separates with blanks and tabs.
CAMVID_COLORS = """\
64 128 64\tAnimal
192 0 128\t\tArchway
0 128 192\tBicyclist
0 128 64\tBridge
128 0 0\t\tBuilding
64 0 128\tCar
64 0 192\tCartLuggagePram
192 128 64\tChild
192 192 128\tColumn_Pole
64 64 128\tFence
128 0 192\tLaneMkgsDriv
192 0 64\tLaneMkgsNonDriv
128 128 64\tMisc_Text
192 0 192\tMotorcycleScooter
128 64 64\tOtherMoving
64 192 128\tParkingBlock
64 64 0\t\tPedestrian
128 64 128\tRoad
128 128 192\tRoadShoulder
0 0 192\t\tSidewalk
192 128 128\tSignSymbol
128 128 128\tSky
64 128 192\tSUVPickupTruck
0 0 64\t\tTrafficCone
0 64 64\t\tTrafficLight
192 64 128\tTrain
128 128 0\tTree
192 128 192\tTruck_Bus
64 0 64\t\tTunnel
192 192 0\tVegetationMisc
0 0 0\t\tVoid
64 192 0\t\tWall
"""


def make_camvid(root: Path, rng: np.random.Generator) -> None:
    """SegNet's download: {split}/*.png, {split}annot/*.png with labels 0 to 11, and its lists."""
    for split, names in CAMVID_NAMES.items():
        (root / split).mkdir(parents=True)
        (root / f"{split}annot").mkdir()
        lines = []
        for name in names:
            labels = np.full((36, 48), 11, np.uint8)
            for label in rng.integers(0, 12, 14):
                labels[_box(rng, 36, 48)] = label
            _photo(rng, 36, 48).save(root / split / f"{name}.png")
            Image.fromarray(labels).save(root / f"{split}annot" / f"{name}.png")
            lines.append(f"/SegNet/CamVid/{split}/{name}.png /SegNet/CamVid/{split}annot/{name}.png\n")
        (root / f"{split}.txt").write_text("".join(lines))


def make_camvid_cambridge(root: Path, rng: np.random.Generator) -> None:
    """Cambridge's download: 701_StillsRaw_full, LabeledApproved_full and label_colors.txt, in one folder for all."""
    for folder in ("701_StillsRaw_full", "LabeledApproved_full"):
        (root / folder).mkdir(parents=True)
    (root / "label_colors.txt").write_text(CAMVID_COLORS)
    colors = [[int(v) for v in line.split()[:3]] for line in CAMVID_COLORS.splitlines()]
    for name in sum(CAMVID_NAMES.values(), ()):
        labels = np.zeros((72, 96, 3), np.uint8)
        for color in rng.integers(0, len(colors), 40):
            labels[_box(rng, 72, 96)] = colors[color]
        _photo(rng, 72, 96).save(root / "701_StillsRaw_full" / f"{name}.png")
        Image.fromarray(labels).save(root / "LabeledApproved_full" / f"{name}_L.png")

"""CamVid from both of its downloads: labels against a flood fill in plain Python, then `prepare` and loading."""

import json
from pathlib import Path

import dataset_trees
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from tiny_training import ROOT, TINY_NETWORK, as_opts

from panoptic_fusion import config_file, resolve_config
from panoptic_fusion.config.read import read_config
from panoptic_fusion.data.coco_panoptic import panoptic_files
from panoptic_fusion.data.custom_dataset import find_dataset
from panoptic_fusion.data.datasets import register_all
from panoptic_fusion.data.prepare import camvid, prepare
from panoptic_fusion.errors import UserError

NAMES = (
    "sky building pole road pavement tree sign fence car pedestrian bicyclist"  # SegNet's labels 0 to 10
).split()
THINGS = {9, 10, 11}  # category id = label + 1


def segments_of(labels: np.ndarray) -> set[tuple[int, frozenset]]:
    """(category id, its pixels) of each segment, by flooding pixel by pixel."""
    height, width = labels.shape
    found, stuff, seen = set(), {}, set()
    for y in range(height):
        for x in range(width):
            label = int(labels[y, x])
            if not label or (y, x) in seen:
                continue
            if label not in THINGS:
                stuff.setdefault(label, set()).add((y, x))
                continue
            component, todo = set(), [(y, x)]
            while todo:
                v, u = todo.pop()
                inside = 0 <= v < height and 0 <= u < width
                if inside and (v, u) not in component and labels[v, u] == label:
                    component.add((v, u))
                    todo += [(v + i, u + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
            seen |= component
            if len(component) >= 30:
                found.add((label, frozenset(component)))
    return found | {(label, frozenset(pixels)) for label, pixels in stuff.items()}


def written_segments(files, image_name: str) -> set[tuple[int, frozenset]]:
    content = json.loads(Path(files.panoptic_json).read_text())
    (image,) = [image for image in content["images"] if image["file_name"] == image_name]
    (annotation,) = [a for a in content["annotations"] if a["image_id"] == image["id"]]
    rgb = np.asarray(Image.open(Path(files.panoptic_root, annotation["file_name"]))).astype(int)
    ids = rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]
    assert set(np.unique(ids)) - {0} == {s["id"] for s in annotation["segments_info"]}
    assert ids.shape == (image["height"], image["width"])
    return {
        (s["category_id"], frozenset(zip(*np.nonzero(ids == s["id"]), strict=True)))
        for s in annotation["segments_info"]
    }


def test_components_by_hand():
    """Two cars that touch at a corner are one; 29 pixels are void; stuff of two parts is one segment."""
    labels = np.zeros((12, 24), int)
    labels[0:5, 0:6] = labels[5:11, 6:11] = 9  # 30 + 30 pixels, diagonal neighbors
    labels[0:5, 12:18] = 9
    labels[4, 17] = 0  # 29 pixels
    labels[7:12, 12:18] = 10  # 30 pixels
    labels[11, 0] = labels[0, 23] = 4
    id_map, categories = camvid.to_segments(labels)
    assert categories == {4: (4, 0), 9000: (9, 0), 10000: (10, 0)} | {c: (c, 0) for c in range(1, 9)}
    assert set(np.unique(id_map)) == {0, 4, 9000, 10000}
    assert (id_map == 9000).sum() == 60 and (id_map == 10000).sum() == 30 and (id_map == 4).sum() == 2


def test_segments_equal_flooding():
    rng = np.random.default_rng(0)
    for _ in range(40):
        labels = np.kron(rng.integers(0, 12, (5, 6)), np.ones((3, 4), int))
        labels[rng.random(labels.shape) < 0.1] = 0
        id_map, categories = camvid.to_segments(labels)
        found = {
            (categories[i][0], frozenset(zip(*np.nonzero(id_map == i), strict=True)))
            for i in np.unique(id_map).tolist()
            if i
        }
        assert found == segments_of(labels)


def test_split_by_name():
    for split, names in dataset_trees.CAMVID_NAMES.items():
        assert {camvid.split_of(name) for name in names} == {split}


def test_segnet_download(tmp_path):
    """Images are copied byte by byte, and labels become category ids; a second run converts nothing."""
    root = tmp_path / "camvid"
    dataset_trees.make_camvid(root, np.random.default_rng(3))
    assert [s.images for s in prepare("camvid", root, workers=1, progress=False)] == [5, 2]
    prepare("camvid", root, ["test"], workers=1, progress=False)
    for split, names in dataset_trees.CAMVID_NAMES.items():
        files = find_dataset(root)[split] if split != "test" else panoptic_files_below(tmp_path, split)
        for name in names:
            labels = np.asarray(Image.open(root / f"{split}annot" / f"{name}.png")).astype(int)
            expected = segments_of(np.where(labels == 11, 0, labels + 1))
            assert written_segments(files, f"{name}.png") == expected
            assert Path(files.images, f"{name}.png").read_bytes() == (root / split / f"{name}.png").read_bytes()
    again = prepare("camvid", root, workers=1, progress=False)
    assert [(s.converted, s.kept) for s in again] == [(0, 5), (0, 2)]


def panoptic_files_below(root: Path, split: str):
    register_all(str(root))
    return panoptic_files(f"camvid_{split}")


def test_cambridge_download(tmp_path):
    """32 colors become 11 classes, of every second pixel; images are averaged over 2 x 2 pixels."""
    root = tmp_path / "camvid"
    dataset_trees.make_camvid_cambridge(root, np.random.default_rng(4))
    assert [s.images for s in prepare("camvid", root, workers=2, progress=False)] == [5, 2]
    members = {
        "sky": "Sky", "building": "Building Archway Bridge Tunnel Wall", "pole": "Column_Pole TrafficCone",
        "road": "Road LaneMkgsDriv LaneMkgsNonDriv", "pavement": "Sidewalk ParkingBlock RoadShoulder",
        "tree": "Tree VegetationMisc", "sign": "SignSymbol Misc_Text TrafficLight", "fence": "Fence",
        "car": "Car SUVPickupTruck Truck_Bus Train OtherMoving",
        "pedestrian": "Pedestrian Child CartLuggagePram Animal", "bicyclist": "Bicyclist MotorcycleScooter",
    }  # fmt: skip
    category_of = {member: i for i, name in enumerate(NAMES, 1) for member in members[name].split()}
    rows = [line.split() for line in dataset_trees.CAMVID_COLORS.splitlines()]
    assert {row[3] for row in rows} - set(category_of) == {"Void"}
    colors = {tuple(map(int, row[:3])): category_of.get(row[3], 0) for row in rows}
    for split in ("train", "val"):
        files = find_dataset(root)[split]
        for name in dataset_trees.CAMVID_NAMES[split]:
            rgb = np.asarray(Image.open(root / "LabeledApproved_full" / f"{name}_L.png"))
            labels = [[colors[tuple(rgb[y, x].tolist())] for x in range(0, 96, 2)] for y in range(0, 72, 2)]
            assert written_segments(files, f"{name}.png") == segments_of(np.array(labels))
            raw = np.asarray(Image.open(root / "701_StillsRaw_full" / f"{name}.png")).astype(float)
            small = np.asarray(Image.open(Path(files.images, f"{name}.png"))).astype(float)
            mean = (raw[::2, ::2] + raw[1::2, ::2] + raw[::2, 1::2] + raw[1::2, 1::2]) / 4
            assert small.shape == (36, 48, 3) and np.abs(small - mean).max() <= 0.5


def test_a_color_that_is_not_listed_is_void(tmp_path):
    dataset_trees.make_camvid_cambridge(tmp_path, np.random.default_rng(4))
    path = tmp_path / "LabeledApproved_full" / "0016E5_07959_L.png"
    Image.fromarray(np.full((72, 96, 3), (1, 2, 3), np.uint8)).save(path)
    (summary,) = prepare("camvid", tmp_path, ["val"], workers=1, progress=False)
    assert summary.images == 2 and summary.empty == 1
    assert any("color that label_colors.txt does not list" in note for note in summary.notes)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda r: (r / "label_colors.txt").unlink(), "label_colors.txt is missing"),
        (lambda r: (r / "label_colors.txt").write_text("64 0 128 Car\n1 2 Sky\n"), "'1 2 Sky' is not of the form"),
        (lambda r: (r / "label_colors.txt").write_text("64 0 128 Car\n"), "no color for sky, building"),
        (lambda r: (r / "701_StillsRaw_full" / "0016E5_07959.png").unlink(), "0016E5_07959.png is missing"),
        (lambda r: (r / "LabeledApproved_full" / "0016E5_07959_L.png").write_text(""), "07959_L.png is not a readable"),
    ],
)
def test_a_spoiled_download_is_named(spoil, message, tmp_path):
    dataset_trees.make_camvid_cambridge(tmp_path, np.random.default_rng(4))
    spoil(tmp_path)
    with pytest.raises(UserError, match=message):
        prepare("camvid", tmp_path, ["val"], workers=1, progress=False)


def test_a_wrong_label_is_named(tmp_path):
    dataset_trees.make_camvid(tmp_path, np.random.default_rng(4))
    Image.fromarray(np.full((36, 48), 12, np.uint8)).save(tmp_path / "valannot" / "0016E5_07959.png")
    with pytest.raises(UserError, match="0016E5_07959.png: 12 is not one of CamVid's 11 labels"):
        prepare("camvid", tmp_path, ["val"], workers=1, progress=False)


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="panoptic_train.json"):
        prepare("camvid", tmp_path, workers=1, progress=False)


def test_configs_find_it_below_the_root(tmp_path, monkeypatch):
    """configs/camvid name no path: $DETECTRON2_DATASETS/camvid is theirs, also as a link to a prepared folder."""
    dataset_trees.make_camvid(tmp_path / "elsewhere", np.random.default_rng(3))
    prepare("camvid", tmp_path / "elsewhere", workers=1, progress=False)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "camvid").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "data"))
    register_all()
    cfg = resolve_config(read_config(config_file("camvid/panoptic_fpn_r18.yaml"), ["MODEL.DEVICE", "cpu"]))
    assert [len(DatasetCatalog.get(name)) for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)] == [5, 2]
    assert [c["name"] for c in sorted(cfg.MODEL.CATEGORIES, key=lambda c: c["id"])] == NAMES
    assert set(find_dataset(tmp_path / "data" / "camvid")) == {"train", "val"}  # make demo-real DATA=.../camvid


def test_a_config_saved_before_keeps_its_paths(tmp_path):
    """The config.yaml of earlier trainings on CamVid registers camvid_train in a place of its own."""
    dataset_trees.make_camvid(tmp_path, np.random.default_rng(3))
    prepare("camvid", tmp_path, workers=1, progress=False)
    entries = [
        {
            "name": f"camvid_{split}",
            "images": str(tmp_path / "images" / split),
            "panoptic_root": str(tmp_path / "annotations" / f"panoptic_{split}"),
            "panoptic_json": str(tmp_path / "annotations" / f"panoptic_{split}.json"),
        }
        for split in ("train", "val")
    ]
    opts = ["MODEL.DEVICE", "cpu", "DATASETS.REGISTER", str(entries), *as_opts(TINY_NETWORK)]
    cfg = resolve_config(read_config(ROOT / "configs" / "camvid" / "panoptic_fpn_r18.yaml", opts))
    assert panoptic_files("camvid_train").images == str(tmp_path / "images" / "train")
    assert len(DatasetCatalog.get("camvid_val")) == 2 and len(cfg.MODEL.CATEGORIES) == 11
    register_all()
    assert MetadataCatalog.get("camvid_train").image_root.endswith("camvid/images/train")
    assert panoptic_files("camvid_train").images != str(tmp_path / "images" / "train")

"""The conversions against other implementations: cityscapesscripts for Cityscapes, slow loops for Vistas and IDD."""

import json
from pathlib import Path

import dataset_trees
import numpy as np
import pytest
from cityscapesscripts.preparation.createPanopticImgs import convert2panoptic
from detectron2.data import DatasetCatalog
from PIL import Image, ImageDraw

from panoptic_fusion.data import get_label_space
from panoptic_fusion.data.datasets import BUILTIN, register_all
from panoptic_fusion.data.datasets.coco import coco_files
from panoptic_fusion.data.datasets.idd import idd_labels
from panoptic_fusion.data.datasets.vistas import vistas_categories
from panoptic_fusion.data.prepare import idd, prepare, vistas
from panoptic_fusion.data.prepare.runner import Source
from panoptic_fusion.data.prepare.segments import describe_segments, write_png
from panoptic_fusion.errors import UserError


def read_ids(path) -> np.ndarray:
    rgb = np.asarray(Image.open(path)).astype(np.int64)
    assert rgb.ndim == 3 and rgb.shape[2] == 3
    return rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]


# -- segments --------------------------------------------------------------------------------------------------------


def test_describe_segments_against_loops():
    rng = np.random.default_rng(0)
    for _ in range(200):
        height, width = rng.integers(1, 12, 2)
        pool = rng.choice([0, 1, 2, 255, 256, 65535, 65536, 70001], 4)
        id_map = rng.choice(pool, (height, width))
        categories = {int(i): (int(i) % 7, int(i) % 2) for i in rng.choice(pool, 3) if i}
        pixels, segments = describe_segments(id_map, categories)
        assert pixels.shape == (height, width, 3) and pixels.dtype == np.uint8
        expected = []
        for segment_id in sorted(categories):
            where = [(x, y) for y in range(height) for x in range(width) if id_map[y, x] == segment_id]
            if where:
                xs, ys = [x for x, _ in where], [y for _, y in where]
                box = [min(xs), min(ys), max(xs) - min(xs) + 1, max(ys) - min(ys) + 1]
                category_id, iscrowd = categories[segment_id]
                entry = {"id": segment_id, "category_id": category_id, "iscrowd": iscrowd}
                expected.append({**entry, "area": len(where), "bbox": box})
        assert segments == expected
        for y in range(height):
            for x in range(width):
                r, g, b = (int(v) for v in pixels[y, x])
                assert r + 256 * g + 65536 * b == (id_map[y, x] if int(id_map[y, x]) in categories else 0)
    json.dumps(segments)


def test_png_is_whole_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    monkeypatch.setattr("os.replace", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_png(np.zeros((4, 5, 3), np.uint8), path)
    assert not path.exists()


# -- Cityscapes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_cityscapes_equals_cityscapesscripts(seed, tmp_path):
    root = tmp_path / "cityscapes"
    dataset_trees.make_cityscapes(root, np.random.default_rng(seed), splits=("train", "val", "test"))
    (tmp_path / "official").mkdir()
    convert2panoptic(str(root / "gtFine"), str(tmp_path / "official"), False, ["train", "val", "test"])
    prepare("cityscapes", root, ("train", "val", "test"), workers=1, progress=False)
    for split in ("train", "val", "test"):
        name = f"cityscapes_panoptic_{split}"
        ours, theirs = (json.loads((f / f"{name}.json").read_text()) for f in (root / "gtFine", tmp_path / "official"))
        for image, official in zip(ours["images"], theirs["images"], strict=True):
            # the one difference: our file_name is a file
            assert (root / "leftImg8bit" / split / image["file_name"]).is_file()
            assert not list(root.rglob(official["file_name"]))
            assert {**image, "file_name": official["file_name"]} == official
        assert ours["annotations"] == theirs["annotations"] and ours["categories"] == theirs["categories"]
        assert any(a["segments_info"] for a in ours["annotations"]) or split == "test"
        for annotation in theirs["annotations"]:
            paths = [f / name / annotation["file_name"] for f in (root / "gtFine", tmp_path / "official")]
            images = [Image.open(path) for path in paths]
            assert images[0].mode == images[1].mode == "RGB"
            assert np.array_equal(*map(np.asarray, images))


def test_cityscapes_rules_by_hand(tmp_path):
    dataset_trees.make_cityscapes(tmp_path, np.random.default_rng(0), images_per_city=1, splits=("val",))
    ids = np.array([[7, 7, 26, 26, 26001], [1, 3, 29000, 18, 24], [0, 2, 11, 26000, 26001]], np.uint16)
    path = next((tmp_path / "gtFine/val/frankfurt").glob("*_instanceIds.png"))
    Image.fromarray(ids).save(path)
    summary = prepare("cityscapes", tmp_path, ["val"], workers=1, progress=False)[0]
    data = json.loads((tmp_path / "gtFine/cityscapes_panoptic_val.json").read_text())
    found = [(s["id"], s["category_id"], s["iscrowd"], s["area"]) for s in data["annotations"][0]["segments_info"]]
    # road, building, the group of people, the group of cars, two cars; not: ego vehicle, caravan, polegroup ...
    assert found == [(7, 7, 0, 2), (11, 11, 0, 1), (24, 24, 1, 1), (26, 26, 1, 2), (26000, 26, 0, 1), (26001, 26, 0, 2)]
    assert summary.segments["car"] == 2 and summary.crowds == {"person": 1, "car": 1}
    assert summary.void_share == pytest.approx(6 / 15)


def test_json_of_cityscapesscripts_is_taken_over(tmp_path):
    """A tree that somebody has prepared with the official tool is not converted again; only file_name is mended."""
    dataset_trees.make_cityscapes(tmp_path, np.random.default_rng(0), splits=("val",))
    convert2panoptic(str(tmp_path / "gtFine"), None, False, ["val"])
    pngs = sorted((tmp_path / "gtFine/cityscapes_panoptic_val").iterdir())
    before = [p.stat().st_mtime_ns for p in pngs]
    summary = prepare("cityscapes", tmp_path, ["val"], workers=1, progress=False)[0]
    assert (summary.converted, summary.kept) == (0, 3) and before == [p.stat().st_mtime_ns for p in pngs]
    data = json.loads((tmp_path / "gtFine/cityscapes_panoptic_val.json").read_text())
    assert data["images"][0]["file_name"] == "frankfurt/frankfurt_000000_000019_leftImg8bit.png"


def test_cityscapes_unknown_id_is_named(tmp_path):
    dataset_trees.make_cityscapes(tmp_path, np.random.default_rng(0), splits=("val",))
    path = sorted((tmp_path / "gtFine/val/frankfurt").glob("*_instanceIds.png"))[1]
    Image.fromarray(np.full((8, 8), 60, np.uint16)).save(path)
    with pytest.raises(UserError, match=f"1 of 3 annotations.*{path.name}.*60"):
        prepare("cityscapes", tmp_path, ["val"], workers=1, progress=False)


# -- Vistas ----------------------------------------------------------------------------------------------------------


def vistas_oracle(values: np.ndarray, config: dict) -> dict:
    """Per pixel: (category id, iscrowd, which) or None; `which` tells things of a class apart."""
    ids = {label["name"]: i + 1 for i, label in enumerate(config["labels"][:65])}
    things = {c["id"] for c in vistas_categories() if c["isthing"]}
    result = {}
    for y in range(values.shape[0]):
        for x in range(values.shape[1]):
            label = config["labels"][int(values[y, x]) >> 8]
            key = None
            if label["evaluate"]:
                group = label["name"].endswith("group")
                category = ids[label["name"].rsplit("--", 1)[0]] if group else ids[label["name"]]
                single = category in things and not group
                key = (category, int(group), int(values[y, x]) & 255 if single else -1)
            result[y, x] = key
    return result


@pytest.mark.parametrize("groups", [(), ("human--person--person-group", "object--vehicle--car--group")])
def test_vistas_from_instances_against_loops(groups, tmp_path):
    for seed in range(3):
        root = tmp_path / str(seed)
        dataset_trees.make_vistas(root, np.random.default_rng(seed), groups)
        config = json.loads((root / "config.json").read_text())
        prepare("vistas", root, workers=1, progress=False)
        for split, folder in (("train", "training"), ("val", "validation")):
            data = json.loads((root / folder / "panoptic" / "panoptic_2018.json").read_text())
            assert data["categories"] == vistas_categories()
            assert [i["id"] for i in data["images"]] == sorted(dataset_trees.VISTAS_KEYS[split])
            for image, annotation in zip(data["images"], data["annotations"], strict=True):
                assert image["id"] == annotation["image_id"]
                values = np.asarray(Image.open(root / folder / "instances" / f"{image['id']}.png"))
                assert image["file_name"] == f"{image['id']}.jpg"
                assert (image["height"], image["width"]) == values.shape
                ids = read_ids(root / folder / "panoptic" / annotation["file_name"])
                described = {s["id"]: (s["category_id"], s["iscrowd"]) for s in annotation["segments_info"]}
                pairs = set()
                for (y, x), key in vistas_oracle(values, config).items():
                    assert (key is None) == (ids[y, x] == 0)
                    if key is not None:
                        assert described[int(ids[y, x])] == key[:2]
                        pairs.add((key, int(ids[y, x])))
                # one segment for each key and one key for each segment
                assert len(pairs) == len({k for k, _ in pairs}) == len({i for _, i in pairs}) == len(described)


def test_vistas_class_0_instance_0_is_not_void(tmp_path):
    dataset_trees.make_vistas(tmp_path, np.random.default_rng(0))
    path = next((tmp_path / "validation" / "instances").iterdir())
    Image.fromarray(np.zeros((80, 60), np.uint16)).save(path)
    prepare("vistas", tmp_path, ["val"], workers=1, progress=False)
    data = json.loads((tmp_path / "validation/panoptic/panoptic_2018.json").read_text())
    segment = data["annotations"][0]["segments_info"][0]
    assert segment["category_id"] == 1 and segment["area"] == 4800 and segment["bbox"] == [0, 0, 60, 80]


def test_vistas_groups_of_a_class_are_one_crowd(tmp_path):
    dataset_trees.make_vistas(tmp_path, np.random.default_rng(0), ("human--person--person-group",))
    values = np.full((80, 60), 65 * 256, np.uint16)
    values[:10], values[10:30], values[30:35] = 66 * 256, 66 * 256 + 1, 19 * 256 + 4  # two groups, a person
    Image.fromarray(values).save(next((tmp_path / "validation" / "instances").iterdir()))
    prepare("vistas", tmp_path, ["val"], workers=1, progress=False)
    data = json.loads((tmp_path / "validation/panoptic/panoptic_2018.json").read_text())
    found = [(s["category_id"], s["iscrowd"], s["area"]) for s in data["annotations"][0]["segments_info"]]
    assert sorted(found) == [(20, 0, 300), (20, 1, 1800)]


def test_vistas_own_panoptic_folder_is_used_and_never_replaced(tmp_path):
    dataset_trees.make_vistas(tmp_path, np.random.default_rng(0), panoptic=True)
    files = [p for p in sorted(tmp_path.rglob("panoptic/*"))]
    before = [p.read_bytes() for p in files]
    for force in (False, True):
        summaries = prepare("vistas", tmp_path, workers=1, force=force, progress=False)
        assert [s.converted for s in summaries] == [0, 0] and "own panoptic" in str(summaries[0])
    assert [p.read_bytes() for p in files] == before


def test_vistas_other_config_is_refused(tmp_path):
    dataset_trees.make_vistas(tmp_path, np.random.default_rng(0))
    config = json.loads((tmp_path / "config.json").read_text())
    config["labels"].insert(3, {**config["labels"][3], "name": "new", "readable": "New"})
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="config.json.*v1.2"):
        prepare("vistas", tmp_path, workers=1, progress=False)
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match="config.json is missing"):
        prepare("vistas", tmp_path, workers=1, progress=False)


def test_vistas_faults_of_one_image_are_named_and_the_others_done(tmp_path):
    dataset_trees.make_vistas(tmp_path, np.random.default_rng(0))
    first, second, third = sorted((tmp_path / "training/instances").iterdir())
    first.write_bytes(first.read_bytes()[:60])
    (tmp_path / "training/images" / f"{third.stem}.jpg").unlink()
    with pytest.raises(UserError) as error:
        prepare("vistas", tmp_path, ["train"], workers=1, progress=False)
    assert "2 of 3" in str(error.value) and first.name in str(error.value) and f"{third.stem}.jpg" in str(error.value)
    assert [p.name for p in (tmp_path / "training/panoptic").glob("*.png")] == [second.name]


def test_vistas_table_of_group_classes(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(dataset_trees.vistas_config(("human--person--person-group",))))
    table = vistas.read_labels(tmp_path / "config.json").table
    person = next(c["id"] for c in vistas_categories() if c["name"] == "Person")
    assert table[-1] == (person, 1) and table[65] == (0, 0) and table[:3] == ((1, 0), (2, 0), (3, 0))


@pytest.mark.parametrize("folders", [("training", "validation"), ("train", "val")])
def test_vistas_of_release_2(folders, tmp_path):
    """Both versions of one download, against loops over pixels; v1.2 has the 65 classes, v2.0 those of its config."""
    root = tmp_path / "vistas"
    dataset_trees.make_vistas_v2(root, np.random.default_rng(3), folders)
    names = {name: i for i, (name, *_) in enumerate(dataset_trees.VISTAS_V2_LABELS)}
    expected_ids = {names[n]: i for i, n in enumerate(
        ("animal--bird", "construction--flat--road", "human--person--individual", "nature--sky",
         "object--vehicle--car"), start=1)}  # fmt: skip
    for key, version, file in (("vistas", "v1.2", "panoptic_2018.json"), ("vistas_v2", "v2.0", "panoptic_2020.json")):
        summaries = prepare(key, root, workers=1, progress=False)
        assert [s.converted for s in summaries] == [3, 1]
        assert [s.converted for s in prepare(key, root, workers=1, progress=False)] == [0, 0]
        for folder in folders:
            data = json.loads((root / folder / version / "panoptic" / file).read_text())
            if key == "vistas":
                assert data["categories"] == vistas_categories()
                continue
            assert [(c["id"], c["name"], c["isthing"]) for c in data["categories"]] == [
                (1, "Bird", 1), (2, "Road", 0), (3, "Person", 1), (4, "Sky", 0), (5, "Car", 1)
            ]  # fmt: skip
            for annotation in data["annotations"]:
                values = np.asarray(Image.open(root / folder / version / "instances" / annotation["file_name"]))
                ids = read_ids(root / folder / version / "panoptic" / annotation["file_name"])
                category = {s["id"]: s["category_id"] for s in annotation["segments_info"]} | {0: None}
                pairs = set()
                for value, segment_id in zip(values.ravel().tolist(), ids.ravel().tolist(), strict=True):
                    assert category[segment_id] == expected_ids.get(value // 256)
                    if segment_id:
                        instance = value % 256 if value // 256 in (0, 3, 6) else -1
                        pairs.add((value // 256, instance, segment_id))
                assert len(pairs) == len({p[:2] for p in pairs}) == len({p[2] for p in pairs})
    register_all(str(tmp_path))
    assert get_label_space("vistas_v2_val").thing_classes == ("Bird", "Person", "Car")
    assert get_label_space("vistas_val").num_things == 37
    for name, number in (("vistas_train", 3), ("vistas_v2_train", 3), ("vistas_val", 1)):
        dicts = DatasetCatalog.get(name)
        assert len(dicts) == number and all(Path(d["file_name"]).is_file() for d in dicts)


def test_vistas_release_2_official_panoptic_folder_is_used(tmp_path):
    """The download brings panoptic_2020.json: nothing is converted and nothing is replaced."""
    dataset_trees.make_vistas_v2(tmp_path, np.random.default_rng(3))
    prepare("vistas_v2", tmp_path, workers=1, progress=False)
    path = tmp_path / "validation" / "v2.0" / "panoptic" / "panoptic_2020.json"
    content = json.loads(path.read_text())
    content["info"] = {"description": "as it comes"}
    path.write_text(json.dumps(content))
    before = path.read_bytes()
    summary = prepare("vistas_v2", tmp_path, ["val"], workers=1, force=True, progress=False)[0]
    assert summary.converted == 0 and "own panoptic" in str(summary) and path.read_bytes() == before


def test_vistas_release_2_faults(tmp_path):
    dataset_trees.make_vistas_v2(tmp_path, np.random.default_rng(3))
    (tmp_path / "config_v2.0.json").rename(tmp_path / "kept.json")
    with pytest.raises(UserError, match="config_v2.0.json is missing"):
        prepare("vistas_v2", tmp_path, workers=1, progress=False)
    (tmp_path / "config_v2.0.json").write_text('{"labels": [{"name": "x"}]}')
    with pytest.raises(UserError, match="config_v2.0.json is not the config"):
        prepare("vistas_v2", tmp_path, workers=1, progress=False)
    (tmp_path / "config_v1.2.json").write_bytes((tmp_path / "kept.json").read_bytes())
    with pytest.raises(UserError, match="5 evaluated classes are not the 65"):
        prepare("vistas", tmp_path, workers=1, progress=False)
    with pytest.raises(FileNotFoundError, match="v2.0 and .*v2.0 not found; expected in"):
        prepare("vistas_v2", tmp_path / "nowhere", workers=1, progress=False)


# -- IDD -------------------------------------------------------------------------------------------------------------


def idd_oracle(annotation: dict) -> list[tuple[np.ndarray, object]]:
    """Masks (H, W) bool of every painted polygon in order, each with its key, None for void."""
    things = {label.level3_id for label in idd_labels().values() if label.has_instances}
    layers = []
    for index, entry in enumerate(annotation["objects"]):
        name, group = entry["label"], False
        if name not in idd_labels() and name.endswith("group"):
            name, group = name[:-5], True
        if entry["deleted"] or len(entry["polygon"]) < 2 or name not in idd_labels():
            continue
        mask = Image.new("L", (annotation["imgWidth"], annotation["imgHeight"]))
        ImageDraw.Draw(mask).polygon([tuple(p) for p in entry["polygon"]], fill=1)
        level = idd_labels()[name].level3_id
        crowd = group and level in things
        key = (level, int(crowd), index if level in things and not crowd else -1)
        layers.append((np.asarray(mask) == 1, None if level == 255 else key))
    return layers


def test_idd_against_painting_mask_by_mask(tmp_path):
    seen_crowd = seen_void = False
    for seed in range(15):
        root = tmp_path / str(seed)
        dataset_trees.make_idd(root, np.random.default_rng(seed), frames=2)
        prepare("idd", root, workers=1, progress=False)
        for split in ("train", "val"):
            data = json.loads((root / f"gtFine/idd_panoptic_{split}.json").read_text())
            for image, result in zip(data["images"], data["annotations"], strict=True):
                assert (root / "leftImg8bit" / split / image["file_name"]).is_file()
                drive, frame = image["id"].split("_")
                path = root / "gtFine" / split / drive / f"{frame}_gtFine_polygons.json"
                annotation = json.loads(path.read_text())
                keys = np.full((image["height"], image["width"]), None, object)
                for mask, key in idd_oracle(annotation):
                    for y, x in zip(*np.nonzero(mask), strict=True):
                        keys[y, x] = key
                ids = read_ids(root / f"gtFine/idd_panoptic_{split}" / result["file_name"])
                described = {s["id"]: (s["category_id"], s["iscrowd"]) for s in result["segments_info"]}
                pairs = set(zip(keys.ravel().tolist(), ids.ravel().tolist(), strict=True))
                seen_void |= (None, 0) in pairs
                pairs.discard((None, 0))
                assert all(k is not None and described[i] == k[:2] for k, i in pairs)
                assert len(pairs) == len({k for k, _ in pairs}) == len({i for _, i in pairs}) == len(described)
                seen_crowd |= any(crowd for _, crowd in described.values())
    assert seen_crowd and seen_void


def convert_idd(folder: Path, objects: list[dict], size=(6, 8)):
    """Converts one polygon json written for the purpose."""
    (folder / "images/0").mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size[::-1]).save(folder / "images/0/1.png")
    path = folder / "1_gtFine_polygons.json"
    path.write_text(json.dumps({"imgHeight": size[0], "imgWidth": size[1], "objects": objects}))
    return idd.convert(str(folder / "images"), Source("0_1", "0/1.png", str(path), "x.png"))


def test_idd_rules_by_hand(tmp_path):
    def box(label, x0, y0, x1, y1, **more):
        return {"label": label, "polygon": [[x0, y0], [x1, y0], [x1, y1], [x0, y1]], **more}

    objects = [
        box("sky", 0, 0, 7, 2),
        box("polegroup", 0, 3, 1, 5),  # a known label: stuff, no crowd
        box("pole", 2, 3, 2, 5),  # the same class and segment
        box("cargroup", 3, 3, 3, 5),
        box("cargroup", 4, 3, 4, 5),
        box("animal", 5, 3, 5, 5),  # class person/animal
        box("person", 6, 3, 6, 5),
        box("ego vehicle", 7, 3, 7, 5),  # void
        box("car", 7, 5, 7, 5, deleted=1),
        box("ufo", 7, 4, 7, 4),
        box("ufo", 7, 4, 7, 4),
    ]
    converted = convert_idd(tmp_path, objects)
    found = [(s["category_id"], s["iscrowd"], s["area"]) for s in converted.segments]
    assert found == [(25, 0, 24), (20, 0, 9), (9, 1, 6), (4, 0, 3), (4, 0, 3)]
    assert (converted.pixels[3:, 7] == 0).all()
    assert list(converted.notes.values()) == [2] and "ufo" in next(iter(converted.notes))
    assert convert_idd(tmp_path, []).segments == []


def test_idd_faults_are_named(tmp_path):
    with pytest.raises(ValueError, match="6x8.*8x6|8x6.*6x8"):
        path = tmp_path / "1_gtFine_polygons.json"
        convert_idd(tmp_path, [])
        path.write_text(json.dumps({"imgHeight": 8, "imgWidth": 6, "objects": []}))
        idd.convert(str(tmp_path / "images"), Source("0_1", "0/1.png", str(path), "x.png"))
    for text in ("[]", "{", '{"imgHeight": 3, "imgWidth": 0, "objects": []}', '{"imgHeight": 3, "imgWidth": 3}'):
        path.write_text(text)
        with pytest.raises(ValueError, match="not an IDD polygon JSON"):
            idd.convert(str(tmp_path / "images"), Source("0_1", "0/1.png", str(path), "x.png"))


# -- COCO ------------------------------------------------------------------------------------------------------------


def test_coco_pngs_where_their_zip_is_unpacked(tmp_path):
    """annotations/panoptic_{split}2017, as panoptic-deeplab and mmdetection expect them; detectron2's place wins."""
    dataset_trees.make_coco(tmp_path, np.random.default_rng(0), zipped=False)
    for split in ("train", "val"):
        (tmp_path / f"panoptic_{split}2017").rename(tmp_path / "annotations" / f"panoptic_{split}2017")
    summaries = prepare("coco", tmp_path, progress=False)
    assert [s.images for s in summaries] == [3, 2] and "0 PNGs unpacked" in str(summaries[0])
    assert coco_files(str(tmp_path), "val").panoptic_root == str(tmp_path / "annotations" / "panoptic_val2017")
    (tmp_path / "panoptic_val2017").mkdir()
    assert coco_files(str(tmp_path), "val").panoptic_root == str(tmp_path / "panoptic_val2017")


def test_coco_unpacks_its_pngs_once(tmp_path):
    dataset_trees.make_coco(tmp_path, np.random.default_rng(0))
    summaries = prepare("coco", tmp_path, progress=False)
    assert [s.images for s in summaries] == [3, 2] and "3 PNGs unpacked" in str(summaries[0])
    assert summaries[0].segments["person"] == 9 and summaries[0].crowds == {"car": 3}
    folder = tmp_path / "panoptic_train2017"
    assert sorted(p.name for p in folder.iterdir()) == [f"{n:012d}.png" for n in (9, 25, 30)]
    times = [p.stat().st_mtime_ns for p in sorted(folder.iterdir())[1:]]
    (folder / "000000000009.png").unlink()
    assert "1 PNGs unpacked" in str(prepare("coco", tmp_path, progress=False)[0])
    assert times == [p.stat().st_mtime_ns for p in sorted(folder.iterdir())[1:]]
    (tmp_path / "annotations/panoptic_train2017.zip").unlink()
    (folder / "000000000009.png").unlink()
    with pytest.raises(UserError, match="000000000009.png is missing"):
        prepare("coco", tmp_path, progress=False)


@pytest.mark.parametrize("key", ["coco", "cityscapes", "vistas", "idd"])
def test_wrong_root_and_split(key, tmp_path):
    with pytest.raises(FileNotFoundError, match="expected in"):
        prepare(key, tmp_path)
    with pytest.raises(UserError, match="no split 'minival'"):
        prepare(key, tmp_path, ["minival"])
    with pytest.raises(FileNotFoundError, match="not found"):
        prepare(key, tmp_path, ["train"])


# -- test splits without annotations ----------------------------------------------------------------------------------


def make_test_split(key, root):
    """Three images of two sizes, a file that is no image, and what lists them; returns {id: (file_name, size)}."""
    if key == "coco":
        folder, names = root / "test2017", {1: "000000000001.jpg", 7: "000000000007.jpg", 12: "000000000012.jpg"}
    elif key == "idd":
        names = {f"{d}_{n}": f"{d}/{n}_leftImg8bit.png" for d, n in (("a", "000001"), ("a", "000002"), ("b", "000001"))}
        folder = root / "leftImg8bit" / "test"
    else:
        folder, names = root / "testing" / "images", {name: f"{name}.jpg" for name in ("k1", "k2", "k3")}
    expected = {}
    for index, (image_id, name) in enumerate(names.items()):
        size = ((9, 14), (12, 7))[index % 2]
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size[::-1]).save(folder / name)
        expected[image_id] = (name, size)
    if key == "coco":
        (root / "annotations").mkdir()
        images = [{"id": image_id, "file_name": name} for image_id, name in names.items()]
        (root / "annotations" / "image_info_test-dev2017.json").write_text(json.dumps({"images": images}))
        Image.new("RGB", (5, 5)).save(folder / "000000000999.jpg")  # of the test split, not of test-dev
    else:
        (folder / "readme.txt").write_text("x")
    return expected


@pytest.mark.parametrize(
    ("key", "split"), [("coco", "test-dev"), ("vistas", "test"), ("vistas_v2", "test"), ("idd", "test")]
)
def test_splits_without_annotations(key, split, tmp_path):
    """All images are registered, with the ids of the server for COCO; void, of their size; a second run adds none."""
    root = tmp_path / (BUILTIN[key].folder or key)
    if key == "vistas_v2":  # for its config
        dataset_trees.make_vistas_v2(root, np.random.default_rng(0))
    expected = make_test_split(key, root)
    (summary,) = prepare(key, root, [split], workers=1, progress=False)
    assert (summary.images, summary.empty, summary.converted) == (3, 3, 3)
    (again,) = prepare(key, root, [split], workers=1, progress=False)
    assert (again.converted, again.kept) == (0, 3)
    register_all(str(tmp_path))
    records = DatasetCatalog.get(summary.name)
    assert get_label_space(summary.name).num_things == {"coco": 80, "vistas": 37, "vistas_v2": 3, "idd": 9}[key]
    found = {x["image_id"]: (x["file_name"], (x["height"], x["width"])) for x in records}
    assert found.keys() == expected.keys()
    for image_id, (name, size) in expected.items():
        assert found[image_id][0].endswith(name) and found[image_id][1] == size
    assert all(x["segments_info"] == [] for x in records)


def test_a_broken_list_or_image_of_a_test_split(tmp_path):
    make_test_split("coco", tmp_path)
    (tmp_path / "test2017" / "000000000007.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"1 of 3 .*000000000007.jpg is not a readable image"):
        prepare("coco", tmp_path, ["test-dev"], workers=1, progress=False)
    (tmp_path / "annotations" / "image_info_test-dev2017.json").write_text("[]")
    with pytest.raises(UserError, match="image_info_test-dev2017.json is not a COCO image_info JSON"):
        prepare("coco", tmp_path, ["test-dev"], workers=1, progress=False)
    with pytest.raises(FileNotFoundError, match="testing"):
        prepare("vistas", tmp_path / "vistas", ["test"], workers=1, progress=False)
    (tmp_path / "idd" / "leftImg8bit" / "test").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="no image found below"):
        prepare("idd", tmp_path / "idd", ["test"], workers=1, progress=False)

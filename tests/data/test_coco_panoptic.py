"""Registering, reading and deriving: lazy, by hand-known numbers, with errors that name the file or key."""

import copy
import gc
import json
import os
import uuid
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pycocotools import mask as mask_api
from pycocotools.coco import COCO
from tiny_panoptic import CATEGORIES, STUFF, THINGS, make_tiny

from panoptic_fusion.data import coco_json
from panoptic_fusion.data.coco_json import rle_pixels
from panoptic_fusion.data.coco_panoptic import (
    PanopticFiles,
    derive_instances_json,
    get_label_space,
    load_panoptic,
    panoptic_files,
    register_from_config,
    register_panoptic,
)
from panoptic_fusion.data.dataset_errors import KINDS, DatasetError
from panoptic_fusion.errors import ConfigError


@pytest.fixture
def name():
    return f"test_{uuid.uuid4().hex}"


def arguments(files: PanopticFiles) -> dict:
    values = vars(files)
    return {key: value for key, value in values.items() if value is not None}


def test_dicts_are_the_json(tmp_path):
    files = make_tiny(tmp_path, seed=1)
    label_space, dicts = load_panoptic(files)
    panoptic, instances = (json.loads(Path(p).read_text()) for p in (files.panoptic_json, files.instances_json))
    assert label_space.stuff_classes == ("sky", "road", "tree") and label_space.thing_classes == ("car", "person")
    assert len(dicts) == len(panoptic["images"])
    for record, image, annotation in zip(dicts, panoptic["images"], panoptic["annotations"], strict=True):
        assert record["file_name"] == str(tmp_path / "images" / image["file_name"])
        assert record["pan_seg_file_name"] == str(tmp_path / "png" / annotation["file_name"])
        assert (record["image_id"], record["height"], record["width"]) == (image["id"], image["height"], image["width"])
        assert len(record["segments_info"]) == len(annotation["segments_info"])
        for segment, expected in zip(record["segments_info"], annotation["segments_info"], strict=True):
            isthing = expected["category_id"] in THINGS
            assert segment["isthing"] is isthing
            assert segment["category_id"] == (THINGS if isthing else STUFF)[expected["category_id"]]
            assert all(segment[key] == expected[key] for key in ("id", "iscrowd", "area"))
        expected = [a for a in instances["annotations"] if a["image_id"] == image["id"]]
        assert [a["bbox"] for a in record["annotations"]] == [a["bbox"] for a in expected]
        assert [a["category_id"] for a in record["annotations"]] == [THINGS[a["category_id"]] for a in expected]


def test_each_json_is_read_once_until_it_changes(tmp_path, name, monkeypatch):
    files = make_tiny(tmp_path, seed=3)
    read, check = [], coco_json.check_regular_file
    monkeypatch.setattr(coco_json, "check_regular_file", lambda path, kind: [read.append(path), check(path, kind)][1])
    register_panoptic(name, **arguments(files))
    get_label_space(name)
    first, second = DatasetCatalog.get(name), DatasetCatalog.get(name)
    assert sorted(read) == sorted([files.panoptic_json, files.instances_json])
    assert first == second == load_panoptic(files, [].append)[1]
    first[0]["segments_info"][0]["id"] = -1  # each caller has lists of its own
    assert DatasetCatalog.get(name) == second
    for path in (files.instances_json, files.panoptic_json):
        read.clear()
        content = json.loads(Path(path).read_text())
        content["annotations"].pop()
        Path(path).write_text(json.dumps(content))
        assert DatasetCatalog.get(name) != second
        assert path in read
        second = DatasetCatalog.get(name)


def test_a_label_space_needs_only_the_panoptic_json(tmp_path, name):
    files = make_tiny(tmp_path, seed=4)
    os.remove(files.instances_json)
    register_panoptic(name, **arguments(files))
    assert get_label_space(name).thing_classes == ("car", "person")
    with pytest.raises(DatasetError, match="missing"):
        DatasetCatalog.get(name)


def test_the_collector_of_cycles_is_paused_and_comes_back(tmp_path, monkeypatch):
    files, seen, loads = make_tiny(tmp_path, seed=5), [], json.loads
    monkeypatch.setattr(json, "loads", lambda text: [seen.append(gc.isenabled()), loads(text)][1])
    load_panoptic(files)
    assert seen == [False, False] and gc.isenabled()
    Path(files.panoptic_json).write_text("{")
    with pytest.raises(DatasetError):
        load_panoptic(files)
    assert gc.isenabled()
    gc.disable()
    try:
        load_panoptic(files, [].append)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_registration_is_lazy(tmp_path, name):
    files = make_tiny(tmp_path / "later", seed=2, instances=False)
    content = Path(files.panoptic_json).read_bytes()
    os.remove(files.panoptic_json)
    register_panoptic(name, **arguments(files))
    metadata = MetadataCatalog.get(name)
    assert metadata.evaluator_type == "panoptic_fusion" and metadata.image_root == files.images
    assert not hasattr(metadata, "instances_json")
    with pytest.raises(DatasetError, match="panoptic.json: the file is missing"):
        get_label_space(name)
    with pytest.raises(DatasetError, match="the file is missing"):
        metadata.thing_classes  # noqa: B018
    Path(files.panoptic_json).write_bytes(content)
    assert metadata.thing_classes == ["car", "person"]
    assert metadata.stuff_dataset_id_to_contiguous_id == STUFF and metadata.ignore_label == 255
    assert metadata.thing_dataset_id_to_contiguous_id == THINGS
    assert get_label_space(name).thing_colors == ((10, 11, 12), (13, 14, 15))
    assert len(DatasetCatalog.get(name)) == 3
    assert copy.deepcopy(metadata).thing_classes == ["car", "person"]


def test_registering_twice(tmp_path, name, monkeypatch):
    files = make_tiny(tmp_path, seed=3)
    register_panoptic(name, **arguments(files))
    register_panoptic(name, **arguments(files))
    monkeypatch.setenv("TINY_ROOT", str(tmp_path))
    register_panoptic(name, "$TINY_ROOT/images", **{k: v for k, v in arguments(files).items() if k != "images"})
    assert panoptic_files(name) == files
    with pytest.raises(ConfigError, match=f"{name}.*already registered"):
        register_panoptic(name, str(tmp_path), files.panoptic_root, files.panoptic_json)
    MetadataCatalog.get("other_" + name)
    with pytest.raises(ConfigError, match="no panoptic dataset 'nope'"):
        get_label_space("nope")
    DatasetCatalog.register("other_" + name, list)
    with pytest.raises(ConfigError, match="by other code"):
        register_panoptic("other_" + name, **arguments(files))


@pytest.mark.parametrize("is_read", [False, True])
@pytest.mark.parametrize("with_metadata", [False, True])
def test_a_name_that_was_removed_can_be_registered_for_other_files(tmp_path, name, is_read, with_metadata):
    """detectron2's DatasetCatalog.remove leaves the metadata."""
    first, second = make_tiny(tmp_path / "a", seed=1), make_tiny(tmp_path / "b", seed=2, instances=False)
    content = json.loads(Path(second.panoptic_json).read_text())
    content["categories"][0]["name"] = "other"
    Path(second.panoptic_json).write_text(json.dumps(content))
    register_panoptic(name, **arguments(first))
    MetadataCatalog.get(name).set(own="kept", evaluator_type="panoptic_fusion")
    if is_read:
        DatasetCatalog.get(name)
    DatasetCatalog.remove(name)
    if with_metadata:
        MetadataCatalog.remove(name)
    register_panoptic(name, **arguments(second))
    metadata = MetadataCatalog.get(name)
    assert metadata.panoptic_json == second.panoptic_json and metadata.get("instances_json") is None
    assert "other" in (*metadata.thing_classes, *metadata.stuff_classes)
    assert [r["file_name"] for r in DatasetCatalog.get(name)] == [r["file_name"] for r in load_panoptic(second)[1]]
    assert metadata.get("own") == (None if with_metadata else "kept")


def test_paths_are_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("DATA", "/data")
    files = PanopticFiles("~/images", "$DATA/png", "${DATA}/p.json")
    assert files == PanopticFiles("/home/somebody/images", "/data/png", "/data/p.json", None)


def test_register_from_config(tmp_path, name):
    files = make_tiny(tmp_path, seed=4)
    entry = {"name": name, **arguments(files)}
    assert register_from_config([entry, entry]) == [name, name]
    assert get_label_space(name).num_things == 2
    for bad, message in (
        ([entry, "x"], r"DATASETS.REGISTER\[1\] must be a mapping"),
        ([{**entry, "image": "x"}], r"DATASETS.REGISTER\[0\] has an unknown key 'image'"),
        ([{k: v for k, v in entry.items() if k != "panoptic_root"}], r"\[0\] has no key 'panoptic_root'"),
        ([{**entry, "images": 3}], r"\[0\]: images must be a text, not 3"),
        ([{**entry, "images": ""}], r"\[0\]: images must be a text"),
    ):
        with pytest.raises(ConfigError, match=message):
            register_from_config(bad)


def test_empty_segments_are_kept_and_folders_checked(tmp_path):
    files = make_tiny(tmp_path, seed=5)
    data = json.loads(Path(files.panoptic_json).read_text())
    data["annotations"][0]["segments_info"] = []
    Path(files.panoptic_json).write_text(json.dumps(data))
    dicts = load_panoptic(files)[1]
    assert len(dicts) == 3 and dicts[0]["segments_info"] == []
    with pytest.raises(DatasetError, match=r"nowhere: the folder is missing \(panoptic_root\)"):
        load_panoptic(PanopticFiles(files.images, str(tmp_path / "nowhere"), files.panoptic_json))


@pytest.mark.parametrize("key", ["categories", "images", "annotations"])
def test_json_without_a_list(tmp_path, key):
    files = make_tiny(tmp_path, seed=6)
    data = json.loads(Path(files.panoptic_json).read_text())
    del data[key]
    Path(files.panoptic_json).write_text(json.dumps(data))
    with pytest.raises(DatasetError, match=f"panoptic.json: the JSON has no list '{key}'"):
        load_panoptic(files)


def test_derived_instances(tmp_path, name):
    """From the PNGs: every thing's visible mask; from the instances json: the whole ones, which overlap."""
    files = make_tiny(tmp_path, seed=7)
    register_panoptic(name, **{**arguments(files), "instances_json": None})
    register_panoptic(f"{name}_whole", **arguments(files))
    for derived, data_set in ((tmp_path / "visible.json", name), (tmp_path / "whole.json", f"{name}_whole")):
        derive_instances_json(data_set, str(derived))
        coco = COCO(str(derived))
        assert sorted(coco.anns) == list(range(1, len(coco.anns) + 1))
        assert {c["id"]: c["name"] for c in coco.cats.values()} == {4: "car", 20: "person"}
        for record in DatasetCatalog.get(data_set):
            assert coco.imgs[record["image_id"]]["file_name"] == os.path.basename(record["file_name"])
            expected = []
            if data_set == name:
                rgb = np.array(Image.open(record["pan_seg_file_name"])).astype(int)
                ids = rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]
                for segment in record["segments_info"]:
                    if segment["isthing"]:
                        category_id = {0: 4, 1: 20}[segment["category_id"]]
                        expected.append((category_id, segment["iscrowd"], ids == segment["id"]))
            else:
                for annotation in json.loads(Path(files.instances_json).read_text())["annotations"]:
                    if annotation["image_id"] == record["image_id"]:
                        mask = np.zeros((record["height"], record["width"]), dtype=bool)
                        x, y, w, h = annotation["bbox"]
                        mask[y : y + h, x : x + w] = True  # all whole masks of the tiny set are boxes
                        expected.append((annotation["category_id"], 0, mask))
            found = [coco.anns[i] for i in coco.getAnnIds(imgIds=[record["image_id"]])]
            assert len(found) == len(expected)
            for annotation, (category_id, iscrowd, mask) in zip(found, expected, strict=True):
                assert (annotation["category_id"], annotation["iscrowd"]) == (category_id, iscrowd)
                assert annotation["area"] == mask.sum()
                assert np.array_equal(mask_api.decode(annotation["segmentation"]).astype(bool), mask)
                rows, columns = np.nonzero(mask)
                x, y = columns.min(), rows.min()
                assert annotation["bbox"] == [x, y, columns.max() - x + 1, rows.max() - y + 1]
    assert sorted(p.name for p in tmp_path.iterdir() if "json" in p.name) == [
        "instances.json", "panoptic.json", "visible.json", "whole.json",
    ]  # fmt: skip


def test_derived_json_is_never_half_written(tmp_path, name):
    files = make_tiny(tmp_path, seed=8, instances=False)
    register_panoptic(name, **arguments(files))
    (tmp_path / "png" / "map2.png").write_bytes(b"")
    with pytest.raises(DatasetError, match="map2.png"):
        derive_instances_json(name, str(tmp_path / "out.json"))
    assert not list(tmp_path.glob("out*"))


def test_rle_pixels():
    rng = np.random.default_rng(0)
    for _ in range(300):
        height, width = rng.integers(1, 60, 2)
        mask = (rng.random((height, width)) < rng.choice([0, 0.02, 0.5, 1])).astype(np.uint8)
        if rng.random() < 0.5:
            mask = np.repeat(mask, 20, axis=0)
        counts = mask_api.encode(np.asfortranarray(mask))["counts"].decode()
        assert rle_pixels(counts) == mask.size
    for bad in ("é", "\n", "P", "", "PPPPPPPPPPPPPPPPPPP0"):
        assert rle_pixels(bad) in (-1, 0)


def test_categories_are_those_of_the_tiny_set():
    assert {c["id"] for c in CATEGORIES} == set(STUFF) | set(THINGS)
    assert len(KINDS) == len(set(KINDS))

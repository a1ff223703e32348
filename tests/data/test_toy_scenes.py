"""Toy scenes: determinism, PNG against json, occlusion, what the scenes hold, atomic writing."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_util

from panoptic_fusion.data import LabelSpace, load_panoptic, panoptic_files, register_panoptic
from panoptic_fusion.data.toy import scenes as toy_scenes
from panoptic_fusion.data.toy.rendering import CATEGORIES, MIN_VISIBLE_AREA
from panoptic_fusion.data.toy.scenes import generate_toy_scenes, render_scene, scene_to_coco
from panoptic_fusion.errors import UserError

NAME = {category["id"]: category["name"] for category in CATEGORIES}
ISTHING = {category["id"]: category["isthing"] for category in CATEGORIES}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """(paths, panoptic json, instances json, id maps by image id) of a train split of 120 images."""
    root = tmp_path_factory.mktemp("toy") / "scenes"
    paths = generate_toy_scenes(root, num_train=120, num_val=2, seed=3)["train"]
    panoptic = json.loads(Path(paths["panoptic_json"]).read_text())
    instances = json.loads(Path(paths["instances_json"]).read_text())
    maps = {}
    for annotation in panoptic["annotations"]:
        png = np.array(Image.open(Path(paths["panoptic_root"]) / annotation["file_name"])).astype(np.int64)
        assert png.ndim == 3 and png.shape[2] == 3
        maps[annotation["image_id"]] = png[..., 0] + 256 * png[..., 1] + 65536 * png[..., 2]
    return paths, panoptic, instances, maps


def files_of(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def instances_by_image(instances):
    grouped = {}
    for item in instances["annotations"]:
        grouped.setdefault(item["image_id"], []).append((item, mask_util.decode(item["segmentation"]).astype(bool)))
    return grouped


def test_same_seed_same_bytes(tmp_path):
    for name, seed, num_train in (("a", 5, 4), ("b", 5, 4), ("c", 6, 4), ("d", 5, 2)):
        generate_toy_scenes(tmp_path / name, num_train=num_train, num_val=2, seed=seed)
    a, b, c, d = (files_of(tmp_path / name) for name in "abcd")
    assert a == b
    assert len(a) == 2 * (4 + 2) + 5
    assert len(set(a.values())) == len(a), "two files are equal: the images or the splits repeat"
    for name in a:
        assert c[name] != a[name], name
    for name in ("train/images/000001.jpg", "train/panoptic/000001.png", "val/images/000000.jpg", "val/panoptic.json"):
        assert d[name] == a[name], "an image depends on how many there are"


def test_png_agrees_with_json(dataset):
    paths, panoptic, _, maps = dataset
    assert len(panoptic["images"]) == len(panoptic["annotations"]) == len(list(Path(paths["images"]).iterdir())) == 120
    for image, annotation in zip(panoptic["images"], panoptic["annotations"], strict=True):
        assert image["id"] == annotation["image_id"]
        with Image.open(Path(paths["images"]) / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"]) == (192, 128) and picture.mode == "RGB"
        id_map = maps[image["id"]]
        assert id_map.shape == (128, 192)
        areas = Counter(id_map.ravel().tolist())
        areas.pop(0, None)
        assert areas == {info["id"]: info["area"] for info in annotation["segments_info"]}
        assert len(annotation["segments_info"]) == len(areas)
        for info in annotation["segments_info"]:
            rows, columns = np.where(id_map == info["id"])
            x, y = columns.min(), rows.min()
            assert info["bbox"] == [x, y, columns.max() - x + 1, rows.max() - y + 1]
            assert info["area"] >= MIN_VISIBLE_AREA and info["category_id"] in NAME
        stuff = [info["category_id"] for info in annotation["segments_info"] if not ISTHING[info["category_id"]]]
        assert len(set(stuff)) == len(stuff), "a stuff class has two segments"
        assert not any(info["iscrowd"] for info in annotation["segments_info"] if not ISTHING[info["category_id"]])


def test_categories_are_honest():
    ids = [category["id"] for category in CATEGORIES]
    assert min(ids) == 1 and max(ids) > len(ids), "ids start at 1 and have gaps"
    changes = sum(a["isthing"] != b["isthing"] for a, b in zip(CATEGORIES[:-1], CATEGORIES[1:], strict=True))
    assert changes >= 4, "things and stuff are mixed"
    assert len(set(ids)) == len({tuple(category["color"]) for category in CATEGORIES}) == len(ids)
    assert LabelSpace.from_categories(list(CATEGORIES)).num_things == 6


def test_instances_agree_with_panoptic(dataset):
    _, panoptic, instances, maps = dataset
    assert [category["id"] for category in instances["categories"]] == [i for i in NAME if ISTHING[i]]
    ids = [item["id"] for item in instances["annotations"]]
    assert len(set(ids)) == len(ids) and min(ids) == 1
    grouped = instances_by_image(instances)
    for annotation in panoptic["annotations"]:
        things = {info["id"]: info for info in annotation["segments_info"] if ISTHING[info["category_id"]]}
        items = grouped.get(annotation["image_id"], [])
        assert sorted(things) == sorted(item["segment_id"] for item, _ in items)
        for item, amodal in items:
            info = things[item["segment_id"]]
            assert (item["category_id"], item["iscrowd"]) == (info["category_id"], info["iscrowd"])
            visible = maps[annotation["image_id"]] == info["id"]
            assert not (visible & ~amodal).any(), "visible outside of the amodal mask"
            rows, columns = np.where(amodal)
            x, y = columns.min(), rows.min()
            assert item["bbox"] == [x, y, columns.max() - x + 1, rows.max() - y + 1]
            assert item["area"] == len(rows) == int(mask_util.area(item["segmentation"]))
        assert all(item["iscrowd"] in (0, 1) for item, _ in items)


def test_visible_is_amodal_minus_what_is_in_front():
    for seed in range(25):
        rng = np.random.default_rng(seed)
        scene = render_scene(rng, (128, 192))
        id_map, segments_info, instances = scene_to_coco(scene, rng)
        infos = {info["id"]: info for info in segments_info}
        things = [index for index, layer in enumerate(scene.layers) if layer.isthing]
        assert len(things) == len(instances)
        for index, item in zip(things, instances, strict=True):
            layer = scene.layers[index]
            hidden = np.zeros((128, 192), bool)
            for other in scene.layers[index + 1 :]:
                hidden |= other.mask
            visible = layer.mask & ~hidden
            assert np.array_equal(id_map == item["segment_id"], visible)
            assert infos[item["segment_id"]]["area"] == visible.sum()
            assert np.array_equal(mask_util.decode(item["segmentation"]).astype(bool), layer.mask)
        covered = np.zeros((128, 192), bool)
        for layer in scene.layers:
            covered |= layer.mask
        assert covered.all()


def test_ties_lie_on_persons_and_win_their_pixels():
    ties = 0
    for seed in range(60):
        scene = render_scene(np.random.default_rng(seed), (128, 192))
        front = scene.layer_map()
        for index, layer in enumerate(scene.layers):
            if layer.category != "tie":
                continue
            ties += 1
            person = scene.layers[layer.parent]
            assert person.category == "person" and not person.iscrowd and layer.parent < index
            assert not (layer.mask & ~person.mask).any()
            assert layer.mask.sum() < 0.5 * person.mask.sum()
            assert not (front[layer.mask] == layer.parent).any(), "the person shows through its tie"
            rows, columns = np.where(layer.mask)
            assert np.ptp(columns) + 1 >= 7 and np.ptp(rows) + 1 >= 13
    assert ties >= 20


def test_signs_stand_before_buses(dataset):
    _, _, instances, maps = dataset
    contested = 0
    for image_id, items in instances_by_image(instances).items():
        buses = [mask for item, mask in items if NAME[item["category_id"]] == "bus"]
        for item, _ in items:
            if NAME[item["category_id"]] == "sign":
                shown = maps[image_id] == item["segment_id"]
                contested += any((shown & bus).sum() > 0.5 * shown.sum() for bus in buses)
    assert contested >= 12, "a sign before a bus in every tenth image"


def test_depth_by_class_and_class_free():
    """Of the pairs of classes, the one that is more often in front wins nearly always, or about half of the time."""
    share = {}
    for depth in ("by-class", "class-free"):
        wins = Counter()
        for seed in range(60):
            scene = render_scene(np.random.default_rng([7, seed]), (128, 192), depth)
            front = scene.layer_map()
            things = [i for i, layer in enumerate(scene.layers) if layer.isthing and not layer.iscrowd]
            for i in things:
                for j in things:
                    ours, theirs = scene.layers[i], scene.layers[j]
                    both = ours.mask & theirs.mask
                    if ours.category != theirs.category and both.sum() >= 16 and (front[both] == j).any() and i < j:
                        wins[theirs.category, ours.category] += 1  # the later layer is in front
        if depth == "class-free":
            assert not any("tie" in pair for pair in wins) and len({frozenset(pair) for pair in wins}) >= 9
        share[depth] = sum(max(n, wins[b, a]) for (a, b), n in wins.items() if (b, a) < (a, b) or not wins[b, a])
        share[depth] /= wins.total()
        assert wins.total() > 100
    assert share["by-class"] > 0.85 > 0.7 > share["class-free"]


def test_scenes_of_another_depth_replace_the_old_ones(tmp_path):
    wanted = {"num_train": 1, "num_val": 1}
    generate_toy_scenes(tmp_path / "toy", **wanted)
    before = files_of(tmp_path)
    generate_toy_scenes(tmp_path / "toy", **wanted, depth="class-free")
    assert files_of(tmp_path)["toy/val/panoptic.json"] != before["toy/val/panoptic.json"]
    with pytest.raises(UserError, match="depth='near' must be one of by-class, class-free"):
        generate_toy_scenes(tmp_path / "toy", **wanted, depth="near")


def test_contents(dataset):
    _, panoptic, _, maps = dataset
    images_with, things_of = Counter(), []
    crowds = 0
    for annotation in panoptic["annotations"]:
        names = {NAME[info["category_id"]] for info in annotation["segments_info"]}
        images_with.update(names)
        crowds += any(info["iscrowd"] for info in annotation["segments_info"])
        things_of.append(sum(ISTHING[i["category_id"]] and not i["iscrowd"] for i in annotation["segments_info"]))
    assert len([n for c, n in NAME.items() if not ISTHING[c] and images_with[n] >= 40]) >= 5
    assert len([n for c, n in NAME.items() if ISTHING[c] and images_with[n] >= 20]) >= 5
    assert crowds >= 3
    assert sum((id_map == 0).sum() >= MIN_VISIBLE_AREA for id_map in maps.values()) >= 10, "images with void"
    assert max((id_map == 0).mean() for id_map in maps.values()) < 0.25
    assert 1 <= things_of.count(0) <= 20, "a small share without things"
    assert max(things_of) <= 8 and np.mean([3 <= n <= 8 for n in things_of if n]) > 0.9


def test_light_and_scale_vary(dataset):
    paths, panoptic, _, _ = dataset
    brightness = [np.asarray(Image.open(path)).mean() for path in sorted(Path(paths["images"]).iterdir())[:40]]
    assert max(brightness) > 1.4 * min(brightness)
    heights = [
        i["bbox"][3] for a in panoptic["annotations"] for i in a["segments_info"] if NAME[i["category_id"]] == "person"
    ]
    assert np.percentile(heights, 90) > 2 * np.percentile(heights, 10)


@pytest.mark.parametrize("size", [(96, 96), (96, 320), (200, 120), (255, 383)])
def test_other_sizes(size):
    names = Counter()
    for seed in range(6):
        rng = np.random.default_rng(seed)
        scene = render_scene(rng, size)
        assert scene.image.shape == (*size, 3) and scene.image.dtype == np.uint8
        id_map, segments_info, _ = scene_to_coco(scene, rng)
        assert id_map.shape == size
        for info in segments_info:
            assert info["area"] == (id_map == info["id"]).sum() >= MIN_VISIBLE_AREA
            names[NAME[info["category_id"]]] += 1
    assert len(names) >= 8


def test_loads_as_a_registered_data_set(tmp_path):
    paths = generate_toy_scenes(tmp_path / "toy", num_train=5, num_val=1)
    register_panoptic("toy_scenes_of_the_test", **paths["train"])
    label_space, dicts = load_panoptic(panoptic_files("toy_scenes_of_the_test"))
    assert label_space == LabelSpace.from_categories(list(CATEGORIES))
    assert [d["height"] for d in dicts] == [128] * 5
    for d in dicts:
        assert len(d["annotations"]) == sum(info["isthing"] for info in d["segments_info"])


def test_second_call_returns_at_once(tmp_path, monkeypatch):
    wanted = {"num_train": 2, "num_val": 1, "seed": 1}
    first = generate_toy_scenes(tmp_path / "toy", **wanted)
    before = files_of(tmp_path)

    def fail(*args):
        raise AssertionError("rendered again")

    with monkeypatch.context() as patch:
        patch.setattr(toy_scenes, "render_scene", fail)
        assert generate_toy_scenes(tmp_path / "toy", **wanted) == first
        with pytest.raises(AssertionError, match="rendered again"):
            generate_toy_scenes(tmp_path / "toy", **{**wanted, "seed": 2})
    assert files_of(tmp_path) == before, "a failed call left something behind, or took something away"
    generate_toy_scenes(tmp_path / "toy", **{**wanted, "num_train": 1})
    assert len(list((tmp_path / "toy" / "train" / "images").iterdir())) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]


def test_another_process_was_faster(tmp_path, monkeypatch):
    wanted = {"num_train": 1, "num_val": 1}
    inner = toy_scenes.render_scene
    calls = []

    def slow(*args):
        calls.append(args)
        if len(calls) == 1:  # meanwhile the other process writes everything
            generate_toy_scenes(tmp_path / "toy", **wanted)
            (tmp_path / "toy" / "theirs").touch()
        return inner(*args)

    monkeypatch.setattr(toy_scenes, "render_scene", slow)
    generate_toy_scenes(tmp_path / "toy", **wanted)
    assert (tmp_path / "toy" / "theirs").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]


def test_bad_arguments(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    generate_toy_scenes(mine, num_train=1, num_val=1)  # an empty folder is fine
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="does not contain toy scenes"):
        generate_toy_scenes(other, num_train=1, num_val=1)
    with pytest.raises(UserError, match="does not contain toy scenes"):
        generate_toy_scenes(other / "thesis.txt", num_train=1, num_val=1)
    assert files_of(other) == {"thesis.txt": b"precious"}
    for bad in ({"num_train": 0}, {"num_val": 0}, {"seed": -1}, {"size": (64, 192)}, {"size": (128,)}):
        with pytest.raises(UserError, match="at least"):
            generate_toy_scenes(tmp_path / "bad", **{"num_train": 1, "num_val": 1, **bad})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "other"]


def test_command_line(run_script, tmp_path):
    folder = tmp_path / "toy"
    numbers = ["--num-train", "1", "--num-val", "1", "--size", "96", "128"]
    code, out, err = run_script("prepare", "toy", "--output", folder, *numbers)
    assert code == 0, err
    assert (folder / "val" / "panoptic.json").is_file() and "panoptic.json" in out
    code, _, err = run_script("prepare", "toy", "--output", folder, "--num-train", "0")
    assert code == 2 and "Traceback" not in err and "num_train=0" in err

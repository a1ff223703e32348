"""An import as a whole: splits, classes, images, resuming, and what it refuses."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from annotation_writers import WRITERS, coco, labelme, save_map, semantic, things_of
from PIL import Image, features
from polygon_scenes import make_scene
from tiny_panoptic import make_tiny
from tiny_training import ROOT

from panoptic_fusion.data.annotation import decode_segmentation, read_id_map
from panoptic_fusion.data.checks import check_dataset
from panoptic_fusion.data.custom_dataset import find_dataset, split_data
from panoptic_fusion.data.frames import find_files
from panoptic_fusion.data.image_file import read_rgb
from panoptic_fusion.data.image_header import IMAGE_SUFFIXES
from panoptic_fusion.data.importers import import_annotations
from panoptic_fusion.errors import UserError


@pytest.fixture(scope="module")
def scenes():
    return [make_scene(seed) for seed in range(4)]


def contents(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and ".import" not in p.parts
    }


def box_shape(label, x0, y0, x1, y1, **more):
    points = [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]
    return {"label": label, "points": points, "shape_type": "polygon", "group_id": None, **more}


def write_labelme(folder, name, shapes, size=(30, 40), suffix=".png"):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}{suffix}"
    if suffix:
        Image.new("RGB", size[::-1]).save(path)
    content = {"shapes": shapes, "imagePath": path.name, "imageHeight": size[0], "imageWidth": size[1]}
    (folder / f"{name}.json").write_text(json.dumps(content))


def panoptic(folder):
    return json.loads((folder / "panoptic.json").read_text())


# -- splits and images -----------------------------------------------------------------------------------------------


def test_without_splits_the_existing_split_applies(scenes, tmp_path):
    labelme("mask")(tmp_path / "in", scenes)
    import_annotations(tmp_path / "in", tmp_path / "out", things=things_of(scenes), workers=1)
    data = find_dataset(tmp_path / "out")
    assert list(data) == ["train"] and data["train"].instances_json is not None
    parts = split_data(data["train"], tmp_path, 0.3)
    assert [check_dataset(files, 0).faults for files in parts.values()] == [[], []]


@pytest.mark.parametrize("val", ["val", "valid", "Validation", "dev"])
def test_splits_of_the_source_are_kept(tmp_path, val):
    for folder, name in (("train", "a"), ("Training", "b"), (val, "c"), ("test", "d")):
        write_labelme(tmp_path / "in" / folder, name, [box_shape("car", 2, 2, 9, 9)])
    result = import_annotations(tmp_path / "in", tmp_path / "out", workers=1)
    assert result.images == {"train": 2, "val": 1, "test": 1}
    assert set(find_dataset(tmp_path / "out")) == {"train", "val"}
    assert [image["file_name"] for image in panoptic(tmp_path / "out" / "val")["images"]] == ["c.png"]


@pytest.mark.parametrize("copy", [False, True])
def test_images_are_linked_or_copied_and_never_changed(scenes, tmp_path, copy):
    (tmp_path / "in").mkdir()
    coco("polygons")(tmp_path / "in", scenes)
    before = contents(tmp_path / "in")
    for _ in range(2):
        import_annotations(tmp_path / "in", tmp_path / "out", copy_images=copy, workers=1)
    assert contents(tmp_path / "in") == before
    images = list((tmp_path / "out" / "images").iterdir())
    assert len(images) == 4 and all(path.is_symlink() != copy for path in images)
    assert {path.read_bytes() for path in images} == {v for k, v in before.items() if k.endswith(".jpg")}


def test_equal_names_in_several_folders(tmp_path):
    for folder, side in (("a", 5), ("b", 9)):
        write_labelme(tmp_path / "in" / folder, "same", [box_shape("car", 0, 0, side, side)])
    import_annotations(tmp_path / "in", tmp_path / "out", workers=1)
    content = panoptic(tmp_path / "out")
    assert [image["file_name"] for image in content["images"]] == ["same.png", "same_2.png"]
    assert [a["segments_info"][0]["area"] for a in content["annotations"]] == [36, 100]
    assert os.readlink(tmp_path / "out" / "images" / "same_2.png").endswith("b/same.png")


def test_missing_images(tmp_path):
    write_labelme(tmp_path / "in", "a", [box_shape("car", 2, 2, 9, 9)])
    write_labelme(tmp_path / "in", "b", [box_shape("car", 2, 2, 9, 9)], suffix="")
    result = import_annotations(tmp_path / "in", tmp_path / "out", workers=1)
    assert result.images.total() == 1 and "--images-root" in str(result.faults[0]) and "b.json" in str(result.faults[0])
    (tmp_path / "more").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "more" / "b.jpg")
    result = import_annotations(tmp_path / "in", tmp_path / "out", images_root=tmp_path / "more", workers=1)
    assert (result.images.total(), result.painted, result.faults) == (2, 1, [])
    result = import_annotations(tmp_path / "in", tmp_path / "out2", keep_missing=True, workers=1)
    assert result.images.total() == 2 and result.faults == []


SUFFIXES = ("jpg", "png", "webp", "tif")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_labels_of_the_stored_orientation_are_turned(tmp_path, orientation, suffix):
    """Only sizes can tell: orientations from 5 on swap width and height."""
    stored = np.zeros((20, 30, 3), np.uint8)
    stored[2:9, 4:10] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    write_labelme(tmp_path / "in", "a", [box_shape("car", 4, 2, 9, 8)], size=(20, 30), suffix="")
    Image.fromarray(stored).save(tmp_path / "in" / f"a.{suffix}", exif=exif)
    result = import_annotations(tmp_path / "in", tmp_path / "out", workers=1)
    files = find_dataset(tmp_path / "out")["train"]
    found = read_id_map(f"{files.panoptic_root}/a.png") > 0
    if orientation < 5:  # labels are taken to lie as the image is shown, as in every tool
        assert found.shape == (20, 30) and found[2:9, 4:10].all() and not result.notes
        return
    shown = read_rgb(tmp_path / "in" / f"a.{suffix}")[..., 0] > 127
    assert (found == shown).all() and "labels turned to the Exif orientation of their image" in result.notes
    instance = json.loads(Path(files.instances_json).read_text())["annotations"][0]
    assert (decode_segmentation(instance["segmentation"], 30, 20).astype(bool) == shown).all()
    assert check_dataset(files, 0).faults == []


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_labels_as_the_image_is_shown_stay(tmp_path, orientation, suffix):
    """With the size of the shown image or without any, the labels lie on the pixels that the reader returns."""
    size, exif = (30, 20) if orientation < 5 else (20, 30), Image.Exif()  # stored, (width, height)
    exif[0x0112] = orientation
    (tmp_path / "in").mkdir()
    Image.new("RGB", size).save(tmp_path / "in" / f"a.{suffix}", exif=exif)
    assert read_rgb(tmp_path / "in" / f"a.{suffix}").shape == (20, 30, 3)
    for given in ((20, 30), (0, 0)):
        write_labelme(tmp_path / "in", "a", [box_shape("car", 4, 2, 9, 8)], size=given, suffix="")
        result = import_annotations(tmp_path / "in", tmp_path / "out", workers=1)
        found = read_id_map(f"{find_dataset(tmp_path / 'out')['train'].panoptic_root}/a.png") > 0
        assert found.shape == (20, 30) and found[2:9, 4:10].all() and found.sum() == 42 and not result.notes


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_images_of_every_suffix_are_found(tmp_path, suffix):
    """Also next to an image of the same stem; the demo finds the same files."""
    if not features.check({".avif": "avif", ".jp2": "jpg_2000"}.get(suffix, "zlib")):
        pytest.skip(f"this Pillow cannot write {suffix}")
    other = ".png" if suffix != ".png" else ".jpg"
    for end in (suffix, other):
        write_labelme(tmp_path / "in", "a", [box_shape("car", 2, 2, 9, 9)], suffix=suffix)
        Image.new("RGB", (40, 30)).save(tmp_path / "in" / f"a{end}")
    result = import_annotations(tmp_path / "in", tmp_path / "out", workers=1)
    assert result.faults == [] and (tmp_path / "out" / "images" / f"a{suffix}").exists()
    assert {path.suffix for path in find_files([tmp_path / "in"])} == {suffix, other}


# -- classes ---------------------------------------------------------------------------------------------------------


def isthing(result):
    return {category.name: category.isthing for category in result.categories}


def test_things_are_proposed_and_decided(tmp_path):
    large = (0, 0, 39, 20)
    for k in range(6):
        shapes = [box_shape("草地", *large), box_shape("sky", 0, 0, 5, 5), box_shape("mug", 9, 9, 12, 12)]
        shapes += [box_shape("car", 20 + 4 * k, 21, 22 + 4 * k, 24) for k in range(k % 3)]
        write_labelme(tmp_path / "in", f"{k}", shapes)
    run = lambda **options: isthing(import_annotations(tmp_path / "in", tmp_path / "out", workers=1, **options))  # noqa: E731
    assert run() == {"car": True, "mug": True, "sky": False, "草地": False}
    assert run(things=["草地"]) == {"car": False, "mug": False, "sky": False, "草地": True}
    assert run(stuff=["mug"]) == {"car": True, "mug": False, "sky": True, "草地": True}
    assert run(things=["sky"], stuff=["car"]) == {"car": False, "mug": True, "sky": True, "草地": False}
    for options in ({"things": ["cat"]}, {"stuff": ["cat"]}, {"things": ["car"], "stuff": ["car"]}):
        with pytest.raises(UserError, match="cat|car"):
            run(**options)


@pytest.mark.parametrize(("name", "images", "each", "thing"), [("tree", 6, 1, False), ("tree", 6, 2, True),
                                                              ("tree", 4, 1, True), ("mug", 6, 1, True)])  # fmt: skip
def test_names_that_are_mostly_stuff(name, images, each, thing, tmp_path):
    """A tree is stuff if no image of at least 5 has two."""
    for k in range(images):
        write_labelme(tmp_path / "in", f"{k}", [box_shape(name, 9 * i, 2, 9 * i + 4, 6) for i in range(each)])
    assert isthing(import_annotations(tmp_path / "in", tmp_path / "out", workers=1)) == {name: thing}


def test_unlabeled_pixels_become_a_class(tmp_path):
    write_labelme(tmp_path / "in", "a", [box_shape("car", 2, 2, 9, 9), box_shape("__ignore__", 0, 0, 4, 4)])
    write_labelme(tmp_path / "in", "b", [])
    result = import_annotations(tmp_path / "in", tmp_path / "out", workers=1)
    assert result.images.total() == 1
    result = import_annotations(tmp_path / "in", tmp_path / "out", unlabeled="floor", workers=1)
    assert result.images.total() == 2 and isthing(result) == {"car": True, "floor": False}
    areas = [sorted(s["area"] for s in a["segments_info"]) for a in panoptic(tmp_path / "out")["annotations"]]
    assert areas == [[64 - 9, 1200 - 64 - 16], [1200]]  # 9 of the car's and all 25 of the ignored pixels stay void


def test_boxes_as_masks_or_not(tmp_path):
    shapes = [box_shape("car", 2, 2, 9, 9), {**box_shape("car", 0, 0, 1, 1), "shape_type": "rectangle"}]
    shapes[1]["points"] = [[20, 20], [25, 22]]
    write_labelme(tmp_path / "in", "a", shapes)
    for boxes, count in ((None, 2), ("mask", 2), ("skip", 1)):
        result = import_annotations(tmp_path / "in", tmp_path / "out", boxes=boxes, workers=1)
        assert result.segments.total() == count
        assert any("boxes" in note for note in result.notes)
    write_labelme(tmp_path / "only", "a", shapes[1:])
    with pytest.raises(UserError) as error:
        import_annotations(tmp_path / "only", tmp_path / "out2", boxes="skip", workers=1)
    start = f"no image of {tmp_path / 'only'} has a shape that can be painted (boxes left out"
    assert str(error.value).startswith(start)


def test_things_of_a_semantic_map_are_its_components(scenes, tmp_path):
    image = np.zeros((20, 30), np.uint8)
    image[:5], image[10:14, 2:6], image[10:14, 20:26] = 1, 2, 2
    save_map(np.zeros((20, 30, 3), np.uint8), tmp_path / "in" / "images" / "a.png")
    save_map(image, tmp_path / "in" / "labels" / "a.png")
    (tmp_path / "in" / "labels.txt").write_text("background\nsky\ncar\n")
    for things, count in ((None, 1), (["car"], 2)):
        result = import_annotations(tmp_path / "in", tmp_path / "out", things=things, workers=1)
        car = next(c for c in result.categories if c.name == "car")
        assert (car.isthing, result.segments[car.id]) == (things is not None, count)


# -- resuming --------------------------------------------------------------------------------------------------------


def test_killed_while_it_wrote_its_first_file(scenes, tmp_path):
    labelme("polygon")(tmp_path / "in", scenes)
    (tmp_path / "out").mkdir()
    partial = tmp_path / "out" / ".import.json.999999999.partial"
    partial.write_text('{"sou')
    result = import_annotations(tmp_path / "in", tmp_path / "out", things=things_of(scenes), workers=1)
    assert not result.faults and not partial.exists()


@pytest.mark.slow
def test_killed_again_and_again(scenes, tmp_path):
    """The same bytes as of a calm run; nothing that was finished is painted again."""
    labelme("polygon")(tmp_path / "in", [scenes[k % 4] for k in range(60)])
    import_annotations(tmp_path / "in", tmp_path / "calm", workers=1)
    command = [sys.executable, "-c", (
        "import sys; from panoptic_fusion.data.importers import import_annotations as i, painting, work\n"
        "import time; real = work.paint\n"
        "def slow(*a):\n time.sleep(0.02)\n return real(*a)\n"
        "work.paint = slow; print(i(sys.argv[1], sys.argv[2], workers=2).painted)"
    ), str(tmp_path / "in"), str(tmp_path / "killed")]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    journal = tmp_path / "killed" / ".import" / "journal"
    for lines in (15, 35):
        process = subprocess.Popen(command, env=env, start_new_session=True)
        deadline = time.monotonic() + 60
        while not (journal.is_file() and journal.read_bytes().count(b"\n") >= lines):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "killed" / "panoptic.json").exists()
    with open(journal, "ab") as file:
        file.write(b'\n{"key": "cut sho')
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and 0 < int(done.stdout) <= 60 - 34, done
    assert contents(tmp_path / "killed") == contents(tmp_path / "calm")


def test_changed_and_new_files_alone_are_painted(scenes, tmp_path):
    labelme("polygon")(tmp_path / "in", scenes)
    run = lambda **options: import_annotations(tmp_path / "in", tmp_path / "out", workers=1, **options)  # noqa: E731
    things = things_of(scenes)
    assert [run(things=things).painted, run(things=things).painted] == [4, 0]
    write_labelme(tmp_path / "in", "new", [box_shape("sign", 2, 2, 9, 9)])
    assert run(things=things).painted == 1
    path = tmp_path / "in" / "new.json"
    path.write_text(path.read_text().replace("9", "7"))
    assert run(things=things).painted == 1
    next((tmp_path / "out" / "panoptic").iterdir()).unlink()
    assert run(things=things).painted == 1
    assert run(things=things, order="smaller-in-front").painted == 5
    path.unlink()
    result = run(things=things, order="smaller-in-front")
    assert (result.painted, result.images.total()) == (0, 4)


@pytest.mark.parametrize("name", ["cvat polygons", "voc indices", "yolo"])
def test_several_processes_give_the_same_bytes(name, scenes, tmp_path):
    (tmp_path / "in").mkdir()
    WRITERS[name].write(tmp_path / "in", scenes)
    for workers in (1, 3):
        import_annotations(tmp_path / "in", tmp_path / f"out{workers}", workers=workers)
    assert contents(tmp_path / "out1") == contents(tmp_path / "out3")


# -- refusals --------------------------------------------------------------------------------------------------------


def test_refusals(scenes, tmp_path):
    (tmp_path / "empty").mkdir()
    labelme("mask")(tmp_path / "in", scenes[:1])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    coco("rle")(tmp_path / "other", scenes[:1])
    import_annotations(tmp_path / "in", tmp_path / "out", workers=1)
    for says, path, output, options in (
        ("does not exist", tmp_path / "nothing", tmp_path / "o", {}),
        ("it has no files", tmp_path / "empty", tmp_path / "o", {}),
        ("of no known format", tmp_path / "full", tmp_path / "o", {}),
        ("--format is 'nothing'; available: coco", tmp_path / "in", tmp_path / "o", {"format": "nothing"}),
        ("no image of these isat files", tmp_path / "in", tmp_path / "o1", {"format": "isat"}),
        ("is not empty and holds no import", tmp_path / "in", tmp_path / "full", {}),
        ("holds an import of", tmp_path / "other", tmp_path / "out", {}),
        ("is the folder of the annotations", tmp_path / "in", tmp_path / "in", {}),
        ("--overlaps is 'x'", tmp_path / "in", tmp_path / "o", {"order": "x"}),
        ("--images-root", tmp_path / "in", tmp_path / "o", {"images_root": tmp_path / "nothing"}),
    ):
        with pytest.raises(UserError) as error:
            import_annotations(path, output, workers=1, **options)
        assert says in str(error.value), error.value


def test_archives_have_to_be_unpacked(tmp_path):
    (tmp_path / "task.zip").write_bytes(b"PK")
    for path in (tmp_path, tmp_path / "task.zip"):
        with pytest.raises(UserError, match="task.zip: archives are not read. Unpack it"):
            import_annotations(path, tmp_path / "out", workers=1)


def test_links_in_a_circle_and_earlier_imports(scenes, tmp_path):
    labelme("mask")(tmp_path / "in", scenes[:2])
    (tmp_path / "in" / "again").symlink_to(tmp_path / "in")
    for output in ("one", "two"):
        result = import_annotations(tmp_path / "in", tmp_path / "in" / output, workers=1)
        assert (result.images.total(), result.faults) == (2, [])


def test_file_names_that_are_no_text(tmp_path):
    """Bytes that are not UTF-8 are valid names on Linux."""
    name = os.fsdecode(b"caf\xe9")
    write_labelme(tmp_path / "in", "a", [box_shape("car", 2, 2, 9, 9)])
    write_labelme(tmp_path / "in", name, [box_shape("car", 2, 2, 9, 9)])
    (tmp_path / "in" / f"{name}2.json").write_bytes(b"{")
    result = import_annotations(tmp_path / "in", tmp_path / "out", workers=1)
    assert result.images.total() == 2 and len(result.faults) == 1
    assert "caf\\udce92.json" in (tmp_path / "out" / "problems.txt").read_text()


def test_roboflows_semantic_masks(tmp_path):
    for split in ("train", "valid"):
        (tmp_path / "in" / split).mkdir(parents=True)
        Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "in" / split / "a_jpg.rf.0.jpg")
        values = np.zeros((20, 30), np.uint8)
        values[3:5] = 2
        save_map(values, tmp_path / "in" / split / "a_jpg.rf.0_mask.png")
        (tmp_path / "in" / split / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, cat\n2, grass\n")
    result = import_annotations(tmp_path / "in", tmp_path / "out", workers=1)
    assert (result.format, result.images) == ("masks", {"train": 1, "val": 1})
    assert {c.name: result.segments[c.id] for c in result.categories} == {"cat": 0, "grass": 2}


@pytest.mark.parametrize("with_instances", [False, True])
def test_coco_stuff_maps_hold_ids_less_one(tmp_path, with_instances):
    """labels.txt has the ids: 1 is person, 92 banner; the maps have 0 and 91."""
    values = np.full((20, 30), 255, np.uint8)
    values[:5], values[10:15, 3:9] = 91, 0
    root = tmp_path / "in"
    save_map(np.zeros((20, 30, 3), np.uint8), root / "images" / "train2017" / "a.png")
    save_map(values, root / "stuffthingmaps" / "train2017" / "a.png")
    (root / "labels.txt").write_text("0: unlabeled\n1: person\n92: banner\n")
    if with_instances:
        entry = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[3, 10, 9, 10, 9, 15, 3, 15]]}
        image = {"id": 1, "file_name": "a.png", "height": 20, "width": 30}
        content = {"images": [image], "annotations": [entry], "categories": [{"id": 1, "name": "person"}]}
        (root / "annotations").mkdir()
        (root / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    result = import_annotations(root, tmp_path / "out", workers=1)
    assert (result.format, result.faults) == ("coco" if with_instances else "masks", [])
    assert isthing(result) == {"person": with_instances, "banner": False}
    areas = {s["category_id"]: s["area"] for s in panoptic(tmp_path / "out")["annotations"][0]["segments_info"]}
    assert {c.name: areas[c.id] for c in result.categories} == {"person": 30, "banner": 150}


def test_output_inside_the_source_is_not_read(scenes, tmp_path):
    semantic("values")(tmp_path, scenes)
    for _ in range(2):
        assert import_annotations(tmp_path, tmp_path / "imported", workers=1).images.total() == 4


@pytest.mark.parametrize(("name", "kind"), [("instances.json", "coco"), ("panoptic.json", "coco-panoptic")])
def test_coco_images_with_the_same_id_or_without_one(tmp_path, name, kind):
    files = make_tiny(tmp_path / "in", seed=1)
    for other in {"panoptic.json", "instances.json"} - {name}:
        (tmp_path / "in" / other).unlink()
    path = tmp_path / "in" / name
    content = json.loads(path.read_text())
    first = content["images"][0]
    content["images"] += [{**first, "file_name": "other.png"}, {"file_name": "no_id.png"}, 3]
    path.write_text(json.dumps(content))
    result = import_annotations(tmp_path / "in", tmp_path / "out", format=kind, images_root=files.images, workers=1)
    assert [fault.kind for fault in result.faults] == ["duplicate image id", *["bad image entry"] * 2]
    assert sum(result.images.values()) == 3 and "'other.png'" in str(result.faults[0])


def test_a_class_whose_only_file_cannot_be_read_is_named_with_the_file(scenes, tmp_path):
    WRITERS["roboflow"].write(tmp_path / "in", scenes[:1])
    file = next((tmp_path / "in").rglob("_annotations.coco.json"))
    split = file.parent
    copied = split.with_name("second")
    copied.mkdir()
    for path in split.iterdir():
        (copied / path.name).write_bytes(path.read_bytes())
    (copied / file.name).write_text("{")
    with pytest.raises(UserError, match=r"names 'unicorn', which no file has.*second/_annotations.coco.json"):
        import_annotations(tmp_path / "in", tmp_path / "out", things=["unicorn"], workers=1)


@pytest.mark.parametrize("part", ["hole", "polygon"])
def test_an_outline_outside_the_image_is_reported_and_the_rest_is_painted(tmp_path, part):
    inside, outside = [[5, 5], [20, 5], [20, 20], [5, 20]], [[5000, 5], [5010, 5], [5010, 10]]
    if part == "hole":
        paths = [[{"x": x, "y": y} for x, y in ring] for ring in (inside, outside)]
        entries = [{"id": "1", "name": "car", "polygon": {"paths": paths}}]
        slot = {"type": "image", "width": 40, "height": 30}
        content = {"item": {"name": "a.png", "slots": [slot]}, "annotations": entries}
    else:
        segmentation = [np.ravel(ring).tolist() for ring in (inside, outside)]
        entry = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "segmentation": segmentation}
        image = {"id": 1, "file_name": "a.png", "height": 30, "width": 40}
        content = {"images": [image], "annotations": [entry], "categories": [{"id": 1, "name": "car"}]}
    (tmp_path / "in").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "a.json").write_text(json.dumps(content))
    result = import_annotations(tmp_path / "in", tmp_path / "out", things=["car"], workers=1)
    (fault,) = result.faults
    assert "a.json" in str(fault) and "outside the image. Fix or remove it" in str(fault)
    (segment,) = panoptic(tmp_path / "out")["annotations"][0]["segments_info"]
    assert segment["area"] >= 225


def test_binary_masks_without_their_image_are_reported(tmp_path):
    folder = tmp_path / "in"
    for name in ("a", "b"):
        save_map(np.zeros((8, 9, 3), np.uint8), folder / f"{name}.png")
        for label in ("car", f"only {name}"):
            save_map(np.eye(8, 9, dtype=np.uint8) * 255, folder / f"{name}_{label}_1.png")
    for image in ("drive_north_1", "drive_car_1"):  # images, whose names are like a mask's
        save_map(np.zeros((8, 9, 3), np.uint8), folder / f"{image}.png")
    save_map(np.eye(8, 9, dtype=np.uint8) * 255, folder / "drive_car_1_car_1.png")
    (folder / "b.png").unlink()
    result = import_annotations(folder, tmp_path / "out", format="binary-masks", things=["car"], workers=1)
    (fault,) = result.faults
    assert "the image 'b' of this mask and 1 more was not found" in str(fault) and "b_car_1.png" in str(fault)


def test_a_map_of_another_size_than_its_image_is_named(scenes, tmp_path):
    WRITERS["superannotate pixels"].write(tmp_path / "in", scenes[:1])
    path = next((tmp_path / "in").rglob("*___save.png"))
    with Image.open(path) as image:
        smaller = image.resize((40, 30), Image.Resampling.NEAREST)
    smaller.save(path)
    content = next((tmp_path / "in").rglob("*___pixel.json"))
    entry = json.loads(content.read_text())
    for key in ("width", "height"):
        (entry["metadata"] if isinstance(entry, dict) else entry[-1]).pop(key, None)
    content.write_text(json.dumps(entry))
    with pytest.raises(UserError, match="___save.png is for 40x30, its image"):
        import_annotations(tmp_path / "in", tmp_path / "out", things=things_of(scenes), workers=1)


def test_files_without_an_annotation_say_what_to_do(tmp_path):
    (tmp_path / "via.json").write_text(json.dumps({"a.png1": {"filename": "a.png", "regions": []}}))
    with pytest.raises(UserError, match="no annotation was found in these via files. Export them again"):
        import_annotations(tmp_path, tmp_path / "out", workers=1)

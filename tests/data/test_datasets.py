"""The registered datasets: class lists against the official ones, laziness, errors, loading from official layouts."""

from pathlib import Path

import dataset_trees
import numpy as np
import pytest
from cityscapesscripts.helpers.labels import labels as cityscapes_labels
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from panoptic_fusion.cli import main
from panoptic_fusion.data import LabelSpace, get_label_space, panoptic_files
from panoptic_fusion.data.checks import check_dataset
from panoptic_fusion.data.datasets import BUILTIN, datasets_root, register_all
from panoptic_fusion.data.datasets.idd import idd_labels
from panoptic_fusion.data.prepare import prepare
from panoptic_fusion.errors import ConfigError, UserError

REPOSITORY = Path(__file__).resolve().parents[2]
NAMES = [name for dataset in BUILTIN.values() for name in dataset.names.values()]
MAKE = {key: getattr(dataset_trees, f"make_{key}") for key in BUILTIN}


# -- classes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "things", "stuff"),
    # COCO: its panoptic task; Cityscapes, Vistas, IDD: Seamless Scene Segmentation, section 5 (table of datasets)
    [("coco_panoptic_2017", 80, 53), ("cityscapes_fine", 8, 11), ("vistas", 37, 28), ("idd", 9, 17), ("camvid", 3, 8)],
)
def test_numbers_of_classes(name, things, stuff):
    for split in ("train", "val"):
        space = get_label_space(f"{name}_{split}")
        assert (space.num_things, space.num_stuff) == (things, stuff)
        assert space.num_channels("full") == things + stuff


def test_cityscapes_classes_are_those_of_cityscapesscripts_in_train_id_order():
    space = get_label_space("cityscapes_fine_train")
    counted = [label for label in cityscapes_labels if 0 <= label.trainId < 255]
    counted.sort(key=lambda label: label.trainId)
    assert len(counted) == 19
    # stuff first, then things, is the order of the official train ids: channel = trainId
    assert space.stuff_classes + space.thing_classes == tuple(label.name for label in counted)
    assert space.stuff_ids + space.thing_ids == tuple(label.id for label in counted)
    assert space.stuff_colors + space.thing_colors == tuple(label.color for label in counted)
    assert [label.hasInstances for label in counted] == [False] * 11 + [True] * 8


def test_coco_classes_are_detectron2s_and_the_panoptic_tasks():
    space = get_label_space("coco_panoptic_2017_val")
    builtin = MetadataCatalog.get("coco_2017_val")  # detectron2's own registration, of the instances
    assert list(space.thing_classes) == builtin.thing_classes
    assert {i: c for c, i in enumerate(space.thing_ids)} == builtin.thing_dataset_id_to_contiguous_id
    assert space.stuff_ids == tuple(c["id"] for c in COCO_CATEGORIES if not c["isthing"])
    assert space.stuff_classes[0] == "banner" and space.stuff_ids[0] == 92 and space.stuff_ids[-1] == 200


def test_vistas_classes():
    space = get_label_space("vistas_train")
    assert sorted(space.thing_ids + space.stuff_ids) == list(range(1, 66))
    assert space.stuff_classes[:2] == ("Curb", "Fence") and space.stuff_classes[-2:] == ("Car Mount", "Ego Vehicle")
    assert space.thing_classes[:2] == ("Bird", "Ground Animal") and space.thing_classes[-1] == "Wheeled Slow"
    assert "Unlabeled" not in space.stuff_classes + space.thing_classes
    # "On Rails" is stuff and "Crosswalk - Plain" is a thing, as in the instance segmentation task
    assert "On Rails" in space.stuff_classes and "Crosswalk - Plain" in space.thing_classes
    assert space.thing_colors[space.thing_classes.index("Car")] == (0, 0, 142)


def test_idd_classes_are_the_level_3_ids():
    space = get_label_space("idd_train")
    assert sorted(space.thing_ids + space.stuff_ids) == list(range(26))
    assert space.thing_ids == tuple(range(4, 13))
    assert space.thing_classes[0] == "person/animal" and space.thing_classes[4] == "autorickshaw"
    assert space.thing_classes[-1] == "caravan/trailer/train/vehicle fallback"
    assert space.thing_colors[-1] == (136, 143, 153)  # vehicle fallback: the others do not count in evaluation
    assert space.stuff_classes[0] == "road" and space.stuff_classes[-1] == "sky/fallback background"
    for label in idd_labels().values():  # no class mixes things and stuff
        if label.level3_id < 255:
            assert label.has_instances == (label.level3_id in space.thing_ids)


# -- registration ----------------------------------------------------------------------------------------------------


def test_names_do_not_clash_with_detectron2s():
    assert NAMES == [
        "coco_panoptic_2017_train", "coco_panoptic_2017_val", "coco_panoptic_2017_test-dev",
        "cityscapes_fine_train", "cityscapes_fine_val", "cityscapes_fine_test",
        "vistas_train", "vistas_val", "vistas_test", "vistas_v2_train", "vistas_v2_val", "vistas_v2_test",
        "idd_train", "idd_val", "idd_test", "camvid_train", "camvid_val", "camvid_test",
    ]  # fmt: skip
    # Registering them raises for a name that is taken (see below), so detectron2's are as they were.
    for name in ("coco_2017_train", "coco_2017_train_panoptic", "cityscapes_fine_panoptic_train"):
        assert name in DatasetCatalog and MetadataCatalog.get(name).get("builtin_key") is None


def test_root_is_detectron2s(monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", "/somewhere")
    assert datasets_root() == "/somewhere"
    register_all()
    assert MetadataCatalog.get("vistas_val").image_root == "/somewhere/vistas/validation/images"
    monkeypatch.delenv("DETECTRON2_DATASETS")
    assert datasets_root() == "datasets"


@pytest.mark.parametrize("name", [name for name in NAMES if "vistas_v2" not in name])
def test_missing_data_set_costs_nothing_until_it_is_asked_for(name, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr("builtins.open", lambda *a, **k: opened.append(a) or (_ for _ in ()).throw(AssertionError(a)))
    register_all(str(tmp_path / "nowhere"))
    metadata = MetadataCatalog.get(name)
    space = LabelSpace.from_metadata(metadata)
    assert len(metadata.thing_classes) == space.num_things and metadata.ignore_label == 255
    assert metadata.evaluator_type == "panoptic_fusion" and panoptic_files(name).images == metadata.image_root
    # of our own tables only, which are part of the package
    assert not [a for a in opened if str(tmp_path) in str(a)]
    monkeypatch.undo()
    with pytest.raises(FileNotFoundError) as error:
        DatasetCatalog.get(name)
    message, key = str(error.value), MetadataCatalog.get(name).builtin_key
    assert "\n" not in message and str(tmp_path) in message and name in message
    assert f"panoptic-fusion prepare {key} {tmp_path}/nowhere/{key}" in message
    assert "expected in" in message and not (tmp_path / "nowhere").exists()


def test_check_says_how_to_make_a_missing_data_set(run_script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run_script("check", "cityscapes_fine_train", "--workers", "1")
    assert code == 1 and "3 problems" in out and "prepare it with `panoptic-fusion prepare cityscapes " in out
    code, out, _ = run_script("check", "--config-file", "toy/panoptic_fpn_r18.yaml", "toy_val", "--workers", "1")
    assert code == 1 and "`panoptic-fusion prepare toy` makes it" in out


def test_missing_data_set_without_a_class_table_says_the_same(tmp_path):
    """Vistas v2.0 has its classes from the JSON: asking for them says what is missing and what to do."""
    register_all(str(tmp_path))
    for ask in (get_label_space, DatasetCatalog.get, lambda name: MetadataCatalog.get(name).thing_classes):
        with pytest.raises((UserError, FileNotFoundError)) as error:
            ask("vistas_v2_val")
        message = str(error.value)
        assert "\n" not in message and f"{tmp_path}/vistas/validation/" in message and "config_v2.0.json" in message
        assert f"panoptic-fusion prepare vistas_v2 {tmp_path}/vistas" in message


def test_name_of_other_code_is_not_taken_over():
    DatasetCatalog.remove("idd_val")
    MetadataCatalog.remove("idd_val")
    DatasetCatalog.register("idd_val", list)
    with pytest.raises(ConfigError, match="idd_val"):
        register_all()


# -- loading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", list(BUILTIN))
def test_prepare_check_load(key, tmp_path):
    folder = tmp_path / (BUILTIN[key].folder or key)
    MAKE[key](folder, np.random.default_rng(5))
    prepare(key, folder, workers=1, progress=False)
    register_all(str(tmp_path))
    crowds = 0
    for split in ("train", "val"):
        name = BUILTIN[key].names[split]
        result = check_dataset(panoptic_files(name), num_workers=0)
        assert not result.faults, result.faults[:3]
        dicts = DatasetCatalog.get(name)
        assert len(dicts) == result.num_images > 0
        space = get_label_space(name)
        for record in dicts:
            assert Path(record["file_name"]).is_file() and Path(record["pan_seg_file_name"]).is_file()
            for segment in record["segments_info"]:
                assert 0 <= segment["category_id"] < (space.num_things if segment["isthing"] else space.num_stuff)
        crowds += sum(segment["iscrowd"] for record in dicts for segment in record["segments_info"])
        assert all("annotations" in record for record in dicts) == (key == "coco")
    # Vistas v1.2 and CamVid have no group class, and in Vistas v2.0 groups are not evaluated.
    assert (crowds > 0) == ("vistas" not in key and key != "camvid")


def test_coco_instances_overlap(tmp_path):
    dataset_trees.make_coco(tmp_path / "coco", np.random.default_rng(0), zipped=False)
    register_all(str(tmp_path))
    record = DatasetCatalog.get("coco_panoptic_2017_train")[0]
    boxes = [annotation["bbox"] for annotation in record["annotations"]]
    assert boxes == [[2, 3, 20, 15], [3, 3, 20, 15], [4, 3, 20, 15]]


def test_coco_masks_of_the_panoptic_pngs_do_not_overlap(tmp_path):
    """OANet's "w/ pano-instance GT": the same images, masks from the PNGs."""
    dataset_trees.make_coco(tmp_path / "coco", np.random.default_rng(0), zipped=False)
    register_all(str(tmp_path))
    with_json, without = (DatasetCatalog.get(f"coco_panoptic_2017_train{suffix}") for suffix in ("", "_pano"))
    assert [x["file_name"] for x in without] == [x["file_name"] for x in with_json]
    assert "annotations" in with_json[0] and not without[0].get("annotations")
    assert panoptic_files("coco_panoptic_2017_train_pano").instances_json is None


def test_json_of_other_classes_is_refused(tmp_path):
    dataset_trees.make_idd(tmp_path / "idd", np.random.default_rng(0))
    prepare("idd", tmp_path / "idd", workers=1, progress=False)
    register_all(str(tmp_path))
    path = Path(panoptic_files("idd_val").panoptic_json)
    path.write_text(path.read_text().replace('"id": 25, "isthing": 0', '"id": 25, "isthing": 1'))
    with pytest.raises(UserError, match="not the 9 things and 17 stuff"):
        DatasetCatalog.get("idd_val")


def test_tables_are_package_data():
    folder = REPOSITORY / "panoptic_fusion" / "data" / "datasets"
    assert sorted(p.name for p in folder.glob("*.csv")) == ["idd_labels.csv", "vistas_classes.csv"]
    assert '"*.csv"' in (REPOSITORY / "pyproject.toml").read_text()


def run_prepare(*arguments) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["prepare", *map(str, arguments)])
    return stop.value.code


def test_command_prepares_and_says_what_it_found(tmp_path, monkeypatch, capfd):
    dataset_trees.make_idd(tmp_path / "idd", np.random.default_rng(1))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert run_prepare("idd") == 0
    out, err = capfd.readouterr()
    assert "idd_train: 6 images (1 without a segment)" in out and "idd_val: 3 images" in out
    assert "6 images converted now, 0 before" in out and "spaceship" in out and "% of the pixels void" in out
    assert "6/6" in err  # the bar
    assert run_prepare("idd", tmp_path / "no") == 2
    err = capfd.readouterr().err
    assert len(err.strip().splitlines()) == 1 and "expected in" in err

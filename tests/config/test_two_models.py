"""Trained models in one process whose datasets have the same names: each keeps its own files and classes."""

import json
import shutil
import uuid
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from tiny_panoptic import make_tiny

from panoptic_fusion import resolve_config
from panoptic_fusion.config import config_file, read_config
from panoptic_fusion.data import DatasetError, coco_panoptic, get_label_space, register_panoptic
from panoptic_fusion.data.registered import check_data_set
from panoptic_fusion.errors import ConfigError


@pytest.fixture
def model(tmp_path):
    """model(prefix, present) -> the resolved config of a trained model, as its config.yaml gives it."""
    name = f"own_{uuid.uuid4().hex[:8]}"

    def model(prefix, present=True, seed=0):
        folder = tmp_path / uuid.uuid4().hex
        files = make_tiny(folder, seed, num_images=1, instances=False)
        content = json.loads(Path(files.panoptic_json).read_text())
        for index, category in enumerate(content["categories"]):
            category.update(name=f"{prefix} {category['name']}", color=[index, 9, 9])
        Path(files.panoptic_json).write_text(json.dumps(content))
        paths = {key: getattr(files, key) for key in ("images", "panoptic_root", "panoptic_json")}
        if not present:
            shutil.rmtree(folder)
        opts = ["DATASETS.REGISTER", str([{"name": name, **paths}]), "MODEL.CATEGORIES", str(content["categories"])]
        opts += ["DATASETS.TRAIN", f"('{name}',)", "DATASETS.TEST", f"('{name}',)"]
        return resolve_config(read_config(config_file("toy/panoptic_fpn_r18.yaml"), opts))

    model.name = name
    return model


def classes(cfg):
    """The things that detectron2's DefaultPredictor(cfg).metadata shows."""
    return MetadataCatalog.get(cfg.DATASETS.TEST[0]).thing_classes


@pytest.mark.parametrize("present", [(True, True), (False, False), (True, False), (False, True)])
def test_each_model_has_its_own_classes_and_files(model, present):
    first, second, third = (
        model(p, there, i) for i, (p, there) in enumerate(zip("abc", (*present, True), strict=True))
    )
    for cfg, prefix in ((first, "a"), (second, "b"), (third, "c")):
        own = f"{prefix} car", f"{prefix} person"
        assert tuple(c["name"] for c in cfg.MODEL.CATEGORIES if c["isthing"]) == own
        assert cfg.DATASETS.TRAIN == cfg.DATASETS.TEST == (cfg.DATASETS.REGISTER[0]["name"],)
    assert classes(third) == ["c car", "c person"]
    assert classes(second) == ["b car", "b person"]
    if present[0]:
        assert first.DATASETS.TEST == (model.name,) and classes(first) == ["a car", "a person"]
    for cfg, there in ((first, present[0]), (second, present[1]), (third, True)):
        if there:
            (record,) = DatasetCatalog.get(cfg.DATASETS.TEST[0])
            assert record["file_name"].startswith(cfg.DATASETS.REGISTER[0]["images"])


def test_resolving_again_changes_nothing(model):
    model("a")
    second = model("b")
    again = second.clone()
    again.defrost()
    assert resolve_config(again) == second
    assert second.DATASETS.TEST[0].startswith(f"{model.name}~")


def test_the_same_model_twice_keeps_the_name(model):
    first = model("a")
    assert resolve_config(first.clone()).DATASETS.TEST == (model.name,)


def test_a_data_set_registered_after_a_model_whose_data_is_not_there(model, tmp_path):
    """Its name has the classes of that model; registering it replaces them."""
    assert classes(model("a", present=False)) == ["a car", "a person"]
    files = make_tiny(tmp_path / "later", 5, num_images=1, instances=False)
    register_panoptic(model.name, files.images, files.panoptic_root, files.panoptic_json)
    assert MetadataCatalog.get(model.name).thing_classes == ["car", "person"]
    check_data_set(model.name, get_label_space(model.name))


def test_a_name_given_twice_by_hand_is_still_an_error(model, tmp_path):
    model("a")
    files = make_tiny(tmp_path / "other", 6, num_images=1, instances=False)
    with pytest.raises(ConfigError, match="already registered, with other arguments"):
        register_panoptic(model.name, files.images, files.panoptic_root, files.panoptic_json)


def test_categories_that_change_under_a_running_process(model):
    """The classes were read before; images with other class numbers under the old names would be wrong results."""
    cfg = model("a")
    assert classes(cfg) == ["a car", "a person"]
    path = coco_panoptic.panoptic_files(model.name).panoptic_json
    content = json.loads(Path(path).read_text())
    content["categories"][0]["name"] = "something else"
    Path(path).write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="the categories have changed since"):
        DatasetCatalog.get(model.name)


@pytest.mark.parametrize("name", [[], {}, [1], None, ""])
@pytest.mark.parametrize("present", [True, False])
def test_a_name_that_is_no_text_is_one_error(model, tmp_path, name, present):
    files = make_tiny(tmp_path / "set", 0, num_images=1, instances=False)
    paths = {key: getattr(files, key) for key in ("images", "panoptic_root", "panoptic_json")}
    categories = json.loads(Path(files.panoptic_json).read_text())["categories"]
    if not present:
        shutil.rmtree(tmp_path / "set")
    cfg = read_config(config_file("toy/panoptic_fpn_r18.yaml"), ["MODEL.CATEGORIES", str(categories)])
    cfg.DATASETS.REGISTER = [{"name": name, **paths}]
    with pytest.raises(ConfigError, match=r"DATASETS.REGISTER\[0\]: name must be a text"):
        resolve_config(cfg)

"""What a block registers is forgotten after it, and what was registered before it is back."""

import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from tiny_panoptic import make_tiny

from panoptic_fusion.data import get_label_space, register_panoptic
from panoptic_fusion.data.catalogs import forgotten_datasets
from panoptic_fusion.data.coco_panoptic import panoptic_files
from panoptic_fusion.data.datasets import register_all
from panoptic_fusion.errors import ConfigError


@pytest.fixture
def name():
    return f"test_{uuid.uuid4().hex}"


def register(name, files):
    register_panoptic(name, files.images, files.panoptic_root, files.panoptic_json)


@pytest.mark.parametrize("is_read", [False, True])
def test_a_name_of_a_block_is_free_after_it(tmp_path, name, is_read):
    first, second = make_tiny(tmp_path / "a", seed=1), make_tiny(tmp_path / "b", seed=2)
    with forgotten_datasets():
        register(name, first)
        if is_read:
            assert get_label_space(name).thing_classes == ("car", "person")
    assert name not in DatasetCatalog and name not in MetadataCatalog
    with pytest.raises(ConfigError, match="no panoptic dataset"):
        panoptic_files(name)
    register(name, second)
    assert all(record["file_name"].startswith(second.images) for record in DatasetCatalog.get(name))


def test_what_was_there_is_back_after_an_error(tmp_path, name):
    register(name, make_tiny(tmp_path / "a", seed=1))
    before = dict(DatasetCatalog), dict(MetadataCatalog), panoptic_files(name), get_label_space(name)
    with pytest.raises(KeyError), forgotten_datasets():
        DatasetCatalog.remove(name)
        register(f"{name}_other", make_tiny(tmp_path / "b", seed=2))
        register_all(str(tmp_path))  # moves built-in datasets
        raise KeyError
    assert before == (dict(DatasetCatalog), dict(MetadataCatalog), panoptic_files(name), get_label_space(name))
    assert len(DatasetCatalog.get(name)) > 0


def test_a_built_in_data_set_that_was_moved_is_back(tmp_path):
    """Its classes are known without its JSON."""
    label_space, metadata = get_label_space("cityscapes_fine_val"), MetadataCatalog.get("cityscapes_fine_val")
    moves = (
        lambda: register("cityscapes_fine_val", make_tiny(tmp_path, seed=1)),
        lambda: register_all(str(tmp_path)),
    )
    for move in moves:
        with forgotten_datasets():
            move()
        assert MetadataCatalog.get("cityscapes_fine_val") is metadata
        assert get_label_space("cityscapes_fine_val") == label_space and label_space.num_things == 8


def test_classes_that_were_read_in_the_block_stay(tmp_path, name):
    files = make_tiny(tmp_path, seed=1)
    register(name, files)
    with forgotten_datasets():
        label_space = get_label_space(name)
    (tmp_path / "gone").mkdir()
    Path(files.panoptic_json).rename(tmp_path / "gone" / "panoptic.json")
    assert get_label_space(name) == label_space


def test_built_in_data_sets_that_are_registered_in_the_block_stay(child_env):
    """They are registered once per process, on the first use of a config."""
    code = """
import sys
from detectron2.data import DatasetCatalog, MetadataCatalog
from panoptic_fusion.data.catalogs import forgotten_datasets
assert "panoptic_fusion.data.datasets" not in sys.modules
with forgotten_datasets():
    import panoptic_fusion.data.datasets
    DatasetCatalog.register("mine", list)
from panoptic_fusion.data import get_label_space
assert "mine" not in DatasetCatalog and "vistas_train" in DatasetCatalog
assert get_label_space("cityscapes_fine_train").num_things == 8
assert len(MetadataCatalog.get("idd_train").thing_classes) == 9
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=child_env, check=True)

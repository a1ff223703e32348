"""Paths that loop or name an unknown user: one line, as for a path that does not exist."""

from pathlib import Path

import pytest
from model_files import write_outputs

from panoptic_fusion.config.defaults import default_output_dir
from panoptic_fusion.data.custom_dataset import find_dataset
from panoptic_fusion.data.importers import import_annotations
from panoptic_fusion.errors import UserError
from panoptic_fusion.evaluation.fuse_files import fuse_files


@pytest.fixture(params=["loop", "user"])
def path(request, tmp_path) -> Path:
    if request.param == "user":
        return Path("~no_such_user/x")
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path / "loop"


def test_a_dataset(path: Path):
    with pytest.raises(UserError, match="does not exist"):
        find_dataset(path)


def test_a_config(path: Path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        default_output_dir(path)


def test_an_import(path: Path, tmp_path: Path):
    with pytest.raises(UserError):
        import_annotations(path, tmp_path / "out")
    (tmp_path / "in").mkdir()
    with pytest.raises(UserError):
        import_annotations(tmp_path / "in", tmp_path / "out", images_root=path)


@pytest.mark.parametrize("which", range(3))
def test_files_of_two_models(path: Path, tmp_path: Path, which: int):
    write_outputs(tmp_path / "in", 2)
    files = [tmp_path / "in" / name for name in ("instances.json", "semantic.json", "images.json")]
    files[which] = path
    with pytest.raises((UserError, FileNotFoundError)):
        fuse_files(*files, tmp_path / "out", processes=1)

"""Paths that loop or name an unknown user: one line, as for a path that does not exist."""

import json
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


@pytest.mark.parametrize("name", ["x" * 5000 + ".jpg", "汉" * 90 + ".jpg", "a/" * 1500 + "b.jpg", "x" * 251 + ".jpg"])
def test_a_long_name_in_a_json(tmp_path: Path, name: str):
    """An image whose name no file system stores is left out and named; one of 255 bytes is fused."""
    write_outputs(tmp_path / "in", 2)
    files = [tmp_path / "in" / name for name in ("instances.json", "semantic.json", "images.json")]
    content = json.loads(files[2].read_text())
    content["images"][0]["file_name"] = name
    files[2].write_text(json.dumps(content))
    result = fuse_files(*files, tmp_path / "out", processes=1)
    fits = len(name) == 255
    assert result["images"] == 1 + fits
    assert any("images[0]" in text and len(text) < 300 for text in result["problems"]) != fits, result["problems"]


def test_a_long_name_on_the_command_line(run_script, tmp_path: Path):
    for name in ("x" * 5000, "a/" * 3000):
        words = ["--instances", name, "--semantic", name, "--images", name, "--output", tmp_path]
        code, _, err = run_script("fuse", *words)
        assert code == 2 and err.count("\n") == 1, err[-500:]

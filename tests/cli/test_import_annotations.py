"""`panoptic-fusion import`: its options, its report and its exit codes."""

import json

import pytest
from annotation_writers import labelme, things_of
from polygon_scenes import make_scene

import panoptic_fusion


@pytest.fixture
def source(tmp_path):
    scenes = [make_scene(seed) for seed in range(2)]
    labelme("polygon")(tmp_path / "in", scenes)
    return tmp_path / "in", things_of(scenes)


def test_import_and_its_report(source, tmp_path, run_script):
    folder, things = source
    options = [
        "--things",
        *things,
        "--overlaps",
        "annotation",
        "--unlabeled",
        "floor",
        "--boxes",
        "skip",
        "--workers",
        "1",
    ]
    code, out, err = run_script("import", folder, "--output", tmp_path / "out", *options, "--copy-images")
    assert (code, err.count("Traceback")) == (0, 0), err
    assert "2 images (no splits), " in out and "format: labelme; overlaps: annotation" in out
    assert "with --things or --stuff of `panoptic-fusion import`" in out  # fine-tune prints the same
    content = json.loads((tmp_path / "out" / "panoptic.json").read_text())
    kinds = {category["name"]: category["isthing"] for category in content["categories"]}
    assert kinds["floor"] == 0 and {name for name, isthing in kinds.items() if isthing} == set(things)
    assert not any(path.is_symlink() for path in (tmp_path / "out" / "images").iterdir())


def test_exit_codes(source, tmp_path, run_script):
    folder, _ = source
    (folder / "broken.json").write_text("{")
    code, out, _ = run_script("import", folder, "--output", tmp_path / "out")
    assert code == 1 and "left out: 1 (1 x corrupt json)" in out and "broken.json" in out
    (folder / "broken.json").unlink()
    code, out, _ = run_script("import", folder, "--output", tmp_path / "out")
    assert code == 0 and "0 images painted now" in out
    code, _, err = run_script("import", tmp_path / "nothing", "--output", tmp_path / "out2")
    assert code == 2 and "does not exist" in err and "Traceback" not in err


def test_python(source, tmp_path):
    result = panoptic_fusion.import_annotations(source[0], tmp_path / "out", workers=1)
    assert result.images.total() == 2 and result.faults == []

"""tools/report_pictures.py draws the screenshots that docs/report.md shows."""

import re

import cv2
import pytest
from headless_browser import missing_browser
from tiny_training import ROOT


@pytest.mark.slow
@pytest.mark.skipif(bool(missing_browser()), reason=f"no pictures are drawn: {missing_browser()}")
def test_the_pictures_of_the_documentation(run_script, tmp_path):
    output = tmp_path / "pictures"
    output.mkdir()
    code, _, err = run_script("tools/report_pictures", output, "--images", 3)
    assert code == 0, err
    drawn = {path.name for path in output.iterdir()}
    assert drawn == set(re.findall(r"\]\((report_\w+\.jpg)\)", (ROOT / "docs/report.md").read_text()))
    for name in drawn:
        picture, committed = (cv2.imread(str(folder / name)) for folder in (output, ROOT / "docs"))
        assert picture.shape == committed.shape
        assert max((folder / name).stat().st_size for folder in (output, ROOT / "docs")) <= 300_000
        assert picture.std() > 10


def test_a_folder_that_does_not_exist(run_script, tmp_path):
    code, _, err = run_script("tools/report_pictures", tmp_path / "no")
    assert code != 0 and "is not a folder" in err

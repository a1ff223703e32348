"""tools/overlaps_picture.py draws the picture of docs/importing.md as it is in the repository."""

import cv2
import numpy as np
from tiny_training import ROOT


def test_the_picture_of_the_documentation(run_script, tmp_path):
    output = tmp_path / "picture.png"
    code, _, err = run_script("tools/overlaps_picture", output)
    assert code == 0, err
    drawn, committed = (cv2.imread(str(path)).astype(int) for path in (output, ROOT / "docs/importing_overlaps.png"))
    assert drawn.shape == committed.shape
    assert (np.abs(drawn - committed).max(axis=2) > 0).mean() < 0.001  # text may differ by a pixel between versions


def test_a_folder_that_does_not_exist(run_script, tmp_path):
    code, _, err = run_script("tools/overlaps_picture", tmp_path / "no" / "picture.png")
    assert code != 0 and not (tmp_path / "no").exists()

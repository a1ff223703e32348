"""tools/learning_curve.py: the figures of metrics.json as a table and a picture."""

import json

import cv2
import pytest


def write(folder, rows):
    folder.mkdir()
    (folder / "config.yaml").write_text("SOLVER: {MAX_ITER: 200}\n")
    (folder / "metrics.json").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


def test_table_and_picture(run_script, tmp_path):
    rows = [
        {"iteration": 19, "total_loss": 2.0},
        {"iteration": 99, "panoptic_seg/PQ": 7.0, "panoptic_seg/mIoU": 9.0},
        {"iteration": 200, "panoptic_seg/PQ": 11.0, "panoptic_seg/mIoU": 12.0},  # after the last iteration
        {"iteration": 99, "panoptic_seg/PQ": 8.0, "panoptic_seg/mIoU": 9.5},  # resumed from an earlier checkpoint
    ]
    first, second = write(tmp_path / "a", rows), write(tmp_path / "b", rows[:2])
    words = ["--model", first, "--model", second, "--metric", "PQ", "--metric", "mIoU"]
    code, out, err = run_script("tools/learning_curve", *words, "--output", tmp_path / "new" / "curve.png")
    assert code == 0, err
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in out.splitlines()[2:]]
    assert cells == [
        [str(first), "100", "8.0", "9.5"],
        [str(first), "200", "11.0", "12.0"],
        [str(second), "100", "7.0", "9.0"],
    ]
    assert cv2.imread(str(tmp_path / "new" / "curve.png")) is not None


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "metrics.json: the file is missing"),
        ("{}\n{", "metrics.json: "),
        ('{"iteration": 1}', "TEST.EVAL_PERIOD"),
    ],
)
def test_wrong_files(run_script, tmp_path, content, expected):
    if content is not None:
        (tmp_path / "metrics.json").write_text(content)
        (tmp_path / "config.yaml").write_text("SOLVER: {MAX_ITER: 2}\n")
    code, _, err = run_script("tools/learning_curve", "--model", tmp_path, "--output", tmp_path / "curve.png")
    assert code == 2 and expected in err and not (tmp_path / "curve.png").exists()

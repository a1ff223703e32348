"""Input sizes for large images."""

import json
import math
from pathlib import Path

from panoptic_fusion.cli import fine_tune
from panoptic_fusion.config import read_config, with_values
from panoptic_fusion.config.image_sizes import scaled_sizes
from panoptic_fusion.data.coco_panoptic import PanopticFiles


def test_by_hand():
    """The light default: short side 360, long side 640 at most, crops of 240 x 320."""
    cfg = read_config(fine_tune.CONFIG)
    assert scaled_sizes(cfg, 480, 360) == {} and scaled_sizes(cfg, 128, 96) == {}
    assert scaled_sizes(cfg, 600, 400) == {  # its own size: times 400 / 360
        "INPUT.MIN_SIZE_TRAIN": (400,), "INPUT.MAX_SIZE_TRAIN": 800, "INPUT.MIN_SIZE_TEST": 400,
        "INPUT.MAX_SIZE_TEST": 711, "INPUT.CROP.SIZE": [266, 355],
    }  # fmt: skip
    # 1296 x 966 has 1251936 pixels; 524288 of them are a factor of 0.64713 for each side: 966 becomes 625.
    assert scaled_sizes(cfg, 1296, 966)["INPUT.MIN_SIZE_TEST"] == 625
    assert scaled_sizes(cfg, 966, 1296) == scaled_sizes(cfg, 1296, 966)
    assert scaled_sizes(with_values(cfg, {"INPUT.PIXEL_BUDGET": 0}), 1296, 966) == {}
    assert scaled_sizes(with_values(cfg, {"INPUT.MIN_SIZE_TEST": 0}), 1296, 966) == {}
    assert "INPUT.CROP.SIZE" not in scaled_sizes(with_values(cfg, {"INPUT.CROP.ENABLED": False}), 600, 400)


def test_the_budget_is_kept_and_used():
    """Whatever the shape: the median image is resized to its own size, to the budget, or as the config did."""
    cfg = read_config(fine_tune.CONFIG)
    for width in (90, 500, 1000, 3000, 8000):
        for height in (90, 500, 1000, 3000, 8000):
            now = with_values(cfg, scaled_sizes(cfg, width, height)).INPUT
            scale = min(now.MIN_SIZE_TEST / min(width, height), now.MAX_SIZE_TEST / max(width, height))
            before = min(360 / min(width, height), 640 / max(width, height))
            budget = min(1.0, math.sqrt(524288 / (width * height)))
            assert abs(scale - max(before, budget)) <= 2 * scale / now.MIN_SIZE_TEST


def test_fine_tune_says_so_and_options_override(tiny_data, tmp_path, capsys):
    content = json.loads(Path(tiny_data["train"]["panoptic_json"]).read_text())
    for image in content["images"]:
        image["width"], image["height"] = 1296, 966
    (tmp_path / "p.json").write_text(json.dumps(content))
    files = PanopticFiles("", "", str(tmp_path / "p.json"))
    cfg = read_config(fine_tune.CONFIG)
    assert fine_tune.choose_sizes(files, cfg, [])["INPUT.MIN_SIZE_TRAIN"] == (625,)
    out = capsys.readouterr().out
    assert "median image: 1296 x 966; short side in training (INPUT.MIN_SIZE_TRAIN): (625,)" in out
    assert "INPUT.PIXEL_BUDGET; 0 keeps the config's short side of 360" in out
    for opts in (["INPUT.MIN_SIZE_TRAIN", "(360,)"], ["INPUT.CROP.SIZE", "[9, 9]"], ["INPUT.PIXEL_BUDGET", "0"]):
        changed = read_config(fine_tune.CONFIG, opts)
        assert fine_tune.choose_sizes(files, changed, opts) == {}
        assert "(360,)" in capsys.readouterr().out

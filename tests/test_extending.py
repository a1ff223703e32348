"""docs/extending.md: the fifth system as it stands on the page, installed as a package of its own."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_training import ROOT

from panoptic_fusion import load_trained
from panoptic_fusion.errors import ConfigError

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^`(\S+)`\n\n```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
NAMES = dict(re.findall(r"(MODEL\.\S+NAME) (FinestLevelHead|SmallFirstFusion)", PAGE))

INFER = """
import json, sys
import numpy as np
from detectron2.engine import DefaultPredictor
from panoptic_fusion import load_plugins, load_trained

imported_with_the_package = "small_first" in sys.modules
cfg = load_trained(sys.argv[1])
network = (predictor := DefaultPredictor(cfg)).model
panoptic_seg, segments_info = predictor(np.zeros((96, 128, 3), np.uint8))["panoptic_seg"]
found = {
    "imported with the package": imported_with_the_package,
    "plugins": load_plugins(),
    "recorded": list(cfg.PLUGINS),
    "parts": [type(network.sem_seg_head).__module__, type(network.fusion).__module__],
    "settings": [network.fusion.min_area, network.fusion.instances_confidence_thresh, network.fusion.overlap_thresh],
    "size": list(panoptic_seg.shape),
}
print(json.dumps(found))
"""


def run(words: list, env: dict[str, str]) -> str:
    done = subprocess.run([sys.executable, *map(str, words)], env=env, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory, child_env) -> dict[str, str]:
    """Of processes in which the package of the page is installed."""
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name, text in FILES.items():
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text(text)
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    run(["-m", "pip", "install", "--quiet", *offline, "--target", site, source], child_env)
    return {**child_env, "PYTHONPATH": f"{site}:{child_env['PYTHONPATH']}"}


@pytest.fixture(scope="module")
def output_dir(environment, tiny_settings, toy_config, tmp_path_factory) -> Path:
    """Of two iterations in two processes."""
    folder = tmp_path_factory.mktemp("small_first")
    settings = {**tiny_settings, **NAMES, "SOLVER.MAX_ITER": 2, "MODEL.PANOPTIC_FUSION.MIN_INSTANCE_AREA": 16.0}
    settings = {**settings, "OUTPUT_DIR": folder, "DATASETS.TEST": "()", "VIS_PERIOD": 0}
    opts = [word for pair in settings.items() for word in pair]
    run(["-m", "panoptic_fusion", "train", "--config-file", toy_config, "--num-gpus", 2, *opts], environment)
    return folder


def test_the_page_has_the_package():
    code = [name for name in FILES if name.endswith(".py")]
    assert sorted(FILES) == ["pyproject.toml", *sorted(code)] and len(code) == 3
    assert sum(len(FILES[name].splitlines()) for name in code) <= 60
    assert sorted(NAMES) == ["MODEL.PANOPTIC_FUSION.NAME", "MODEL.SEM_SEG_HEAD.NAME"]


def test_two_iterations_in_two_processes(output_dir):
    lines = [json.loads(line) for line in (output_dir / "metrics.json").read_text().splitlines()]
    last = next(line for line in lines if line["iteration"] == 1)
    assert {"loss_confidence", "loss_sem_seg", "loss_mask"} <= last.keys()
    assert (output_dir / "log.txt.rank1").is_file()  # of the second process


def test_infers_from_its_output_dir(output_dir, environment):
    found = json.loads(run(["-c", INFER, output_dir], environment).splitlines()[-1])
    assert found == {
        "imported with the package": False,  # but with the first config
        "plugins": ["small_first"],
        "recorded": ["small_first"],
        "parts": ["small_first.head", "small_first.fusion"],
        "settings": [16.0, 0.7, 0.5],
        "size": [96, 128],
    }


def test_without_the_plugin(output_dir):
    """This process does not have it: the error names it and how to name it, and nothing was imported."""
    with pytest.raises(ConfigError) as error:
        load_trained(output_dir)
    assert "did you mean" not in str(error.value)  # of a key that the plugin adds, no key of the project is similar
    for text in ("MIN_INSTANCE_AREA", "plugin small_first", "--plugin small_first", "load_plugins(['small_first'])"):
        assert text in str(error.value)
    assert "small_first" not in sys.modules

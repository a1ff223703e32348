"""Thresholds of fusions: those of the class where the config has None; explicit ones win; the configs keep theirs."""

from pathlib import Path

import pytest
import yaml
from detectron2.modeling import build_model
from small_networks import small_cfg

from panoptic_fusion import resolve_config
from panoptic_fusion.config.read import merge_opts, read_config
from panoptic_fusion.errors import ConfigError
from panoptic_fusion.modeling.fusion import (
    PANOPTIC_FUSION_REGISTRY,
    HeuristicFusion,
    build_panoptic_fusion,
    fill_in_thresholds,
)

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FILES = [p for p in sorted(CONFIGS.glob("*/*.yaml")) if p.parent.name not in ("ablations", "own", "zoo")] + sorted(
    CONFIGS.glob("Base-*")
)
PREFIX = "MODEL.PANOPTIC_FUSION."
KEYS = (
    "INSTANCES_CONFIDENCE_THRESH",
    "OVERLAP_THRESH",
    "STUFF_AREA_LIMIT",
    "STUFF_CHANNELS_ONLY",
    "AT_INPUT_RESOLUTION",
)

# What 1dabfec's configs said, by system: the fusion and its thresholds but for the area limit.
HEURISTIC = ("HeuristicFusion", 0.5, 0.5, False, False)
SYSTEMS = {
    "panoptic_fpn": HEURISTIC,
    "tascnet": ("MaskGuidedFusion", 0.5, 0.4, False, False),
    "seamless": ("SeamlessFusion", 0.5, 0.5, False, True),
    "upsnet": ("UPSNetFusion", 0.6, 0.3, False, True),
    "oanet": ("SpatialRankingFusion", 0.5, 0.5, True, False),
}
# The area limit, by dataset; 4096 in all others.
AREA_LIMITS = {"toy": 64, "camvid": 256}
AREA_LIMITS_OF_SYSTEMS = {("cityscapes", "upsnet"): 2048, ("coco", "oanet"): 4900}
LOSS_WEIGHTS = {"oanet": 0.25}
LOSS_WEIGHTS_OF_SYSTEMS = {("coco", "panoptic_fpn"): 0.5, ("coco", "upsnet"): 0.2}


def thresholds(cfg) -> tuple:
    fusion = fill_in_thresholds(cfg).MODEL.PANOPTIC_FUSION
    return tuple(fusion[key] for key in KEYS)


LATER = ("_independent", "_semantic")  # configs of separate networks, which 1dabfec did not have


@pytest.mark.parametrize(
    "path", [f for f in FILES if not f.stem.endswith(LATER)], ids=lambda path: str(path.relative_to(CONFIGS))
)
def test_configs_have_the_thresholds_of_1dabfec(path):
    dataset = path.parent.name
    system = path.stem.rsplit("_r", 1)[0].rsplit("_lite", 1)[0].lower().removeprefix("base-")
    name, confidence, overlap, stuff_only, at_input = SYSTEMS.get(system, HEURISTIC)
    if "_stuff" in path.stem and not path.stem.endswith("_stuff_first"):
        name, confidence, overlap, stuff_only, at_input = HEURISTIC
    limit = AREA_LIMITS_OF_SYSTEMS.get((dataset, system), AREA_LIMITS.get(dataset, 4096))
    if path.name == "Base-OANet.yaml":
        limit = 4900
    cfg = read_config(path)
    assert cfg.MODEL.PANOPTIC_FUSION.NAME == name
    assert thresholds(cfg) == (confidence, overlap, limit, stuff_only, at_input)
    weight = LOSS_WEIGHTS_OF_SYSTEMS.get((dataset, system), LOSS_WEIGHTS.get(system, 1.0))
    assert cfg.MODEL.SEM_SEG_HEAD.LOSS_WEIGHT == weight


@pytest.mark.parametrize("base", ["Base-OANet", "Base-UPSNet", "Base-Seamless", "Base-TASCNet", "Base-PanopticRCNN"])
@pytest.mark.parametrize("name", sorted(name for name, _ in PANOPTIC_FUSION_REGISTRY))
def test_another_name_brings_its_own_thresholds(base, name):
    cfg = read_config(CONFIGS / f"{base}.yaml", [f"{PREFIX}NAME", name])
    expected = {values[0]: values for values in SYSTEMS.values()}[name]
    limit = 4900 if name == "SpatialRankingFusion" else 4096
    assert thresholds(cfg) == (expected[1], expected[2], limit, expected[3], expected[4])


def test_unset_keys_stay_none_and_the_network_has_none_of_them():
    cfg = small_cfg(**{f"MODEL__PANOPTIC_FUSION__{key}": "None" for key in KEYS})
    cfg.MODEL.PANOPTIC_FUSION.NAME = "SpatialRankingFusion"
    cfg = resolve_config(cfg)
    saved = yaml.safe_load(cfg.dump())["MODEL"]["PANOPTIC_FUSION"]
    assert all(cfg.MODEL.PANOPTIC_FUSION[key] is None and saved[key] is None for key in KEYS)
    network = build_model(cfg)
    fusion = network.fusion
    found = (fusion.instances_confidence_thresh, fusion.overlap_thresh, fusion.stuff_area_limit)
    assert (*found, fusion.stuff_channels_only, network.fuse_at_input_resolution) == (0.5, 0.5, 4900, True, False)
    direct = type(fusion)(cfg)  # a class that is called with a config fills them in, too
    assert (direct.stuff_area_limit, direct.stuff_channels_only) == (4900, True)


def test_explicit_keys_win_one_by_one():
    cfg = small_cfg(MODEL__PANOPTIC_FUSION__NAME="UPSNetFusion", MODEL__PANOPTIC_FUSION__AT_INPUT_RESOLUTION="False")
    assert thresholds(cfg) == (0.0, 0.3, 1, False, False)  # 0.0 and 1 are small_cfg's; 0 and False count as set


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("INSTANCES_CONFIDENCE_THRESH", [1, 0.25, 0]),
        ("OVERLAP_THRESH", [0.5, 1, 0.25]),
        ("STUFF_AREA_LIMIT", [0, 10**6]),
        ("STUFF_CHANNELS_ONLY", [True, False]),
        ("AT_INPUT_RESOLUTION", [False, True]),
    ],
)
def test_values_of_yaml_and_command_line(tmp_path, key, values):
    """Numbers with and without a point replace each other; None takes a value back."""
    path = tmp_path / "own.yaml"
    path.write_text(f"MODEL:\n  PANOPTIC_FUSION:\n    {key}: {values[0]}\nVERSION: 2\n")
    cfg = read_config(path)
    assert cfg.MODEL.PANOPTIC_FUSION[key] == values[0]
    for value in values[1:]:
        merge_opts(cfg, [f"{PREFIX}{key}", str(value)])
        assert cfg.MODEL.PANOPTIC_FUSION[key] == value
    merge_opts(cfg, [f"{PREFIX}{key}", "None"])
    assert cfg.MODEL.PANOPTIC_FUSION[key] is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("INSTANCES_CONFIDENCE_THRESH", "high"),
        ("INSTANCES_CONFIDENCE_THRESH", "True"),
        ("OVERLAP_THRESH", "[0.5]"),
        ("OVERLAP_THRESH", "1.5"),
        ("STUFF_AREA_LIMIT", "0.5"),
        ("STUFF_AREA_LIMIT", "-1"),
        ("STUFF_CHANNELS_ONLY", "1"),
        ("AT_INPUT_RESOLUTION", "0.5"),
    ],
)
def test_values_that_cannot_work(key, value):
    cfg = small_cfg()
    merge_opts(cfg, [PREFIX + key, value])
    with pytest.raises(ConfigError, match=f"{PREFIX}{key} is .*use"):
        build_model(resolve_config(cfg))


def test_a_fusion_with_an_unknown_threshold():
    class Misspelled(HeuristicFusion):
        thresholds = {"OVERLAP": 0.4}

    with pytest.raises(ConfigError, match="Misspelled.thresholds has the key 'OVERLAP'; available: .*OVERLAP_THRESH"):
        Misspelled.fill_in(small_cfg())


def test_an_own_fusion_inherits_the_rest():
    class Own(PANOPTIC_FUSION_REGISTRY.get("UPSNetFusion")):
        thresholds = {"OVERLAP_THRESH": 0.2}

    cfg = read_config(CONFIGS / "Base-UPSNet.yaml")
    fusion = Own.fill_in(cfg).MODEL.PANOPTIC_FUSION
    assert tuple(fusion[key] for key in KEYS) == (0.6, 0.2, 4096, False, True)
    assert cfg.MODEL.PANOPTIC_FUSION.OVERLAP_THRESH is None  # a copy was filled in


def test_the_name_is_checked_once_in_one_place():
    cfg = small_cfg(MODEL__PANOPTIC_FUSION__NAME="Heuristics")
    with pytest.raises(ConfigError, match=f"^{PREFIX}NAME is 'Heuristics'.*HeuristicFusion"):
        resolve_config(cfg)
    with pytest.raises(KeyError, match="Heuristics"):
        build_panoptic_fusion(cfg)

"""The rules that a model can feed, and their settings, against the fusions that the config builds."""

import pickle

import pytest
import torch
from small_networks import small_cfg

from panoptic_fusion import resolve_config
from panoptic_fusion.errors import ConfigError, UserError
from panoptic_fusion.evaluation.tuning.rules import PREFIX, THRESHOLDS, check_names, rules_of_model
from panoptic_fusion.modeling.fusion import build_panoptic_fusion

FIRST = {"MODEL__PANOPTIC_FUSION__STUFF_AREA_LIMIT": None, "MODEL__PANOPTIC_FUSION__INSTANCES_CONFIDENCE_THRESH": None}


def model_of(**keys):
    """A resolved config and its fusion."""
    cfg = resolve_config(small_cfg(**{**FIRST, **keys}))
    return cfg, build_panoptic_fusion(cfg)


def rules_of(names=(), **keys):
    return rules_of_model(*model_of(**keys), names)


def test_rules_of_each_ontology():
    rules, reasons = rules_of()
    assert sorted(rules) == ["HeuristicFusion", "MaskGuidedFusion", "SeamlessFusion", "UPSNetFusion"]
    assert list(reasons) == ["SpatialRankingFusion"] and "was not trained with it" in reasons["SpatialRankingFusion"]
    rules, reasons = rules_of(MODEL__SEM_SEG_HEAD__ONTOLOGY="collapsed")
    assert sorted(rules) == ["HeuristicFusion", "MaskGuidedFusion", "SeamlessFusion"]
    assert "needs a semantic channel of each thing class" in reasons["UPSNetFusion"]
    rules, reasons = rules_of(MODEL__SEM_SEG_HEAD__ONTOLOGY="stuff")
    assert sorted(rules) == ["HeuristicFusion", "SeamlessFusion"]
    assert "need a semantic mask of the things" in reasons["MaskGuidedFusion"]


def test_a_rule_with_weights_keeps_those_of_the_model():
    cfg, fusion = model_of(MODEL__PANOPTIC_FUSION__NAME="SpatialRankingFusion")
    rules, reasons = rules_of_model(cfg, fusion)
    assert len(rules) == 5 and not reasons
    rule = pickle.loads(pickle.dumps(rules["SpatialRankingFusion"]))
    built = rule.build(rule.start)
    assert all(torch.equal(built.state_dict()[key], value) for key, value in fusion.state_dict().items())
    assert len(built.state_dict()) > 0 and "SRM.ORDER" in rule.keys


def test_start_is_what_the_config_builds():
    """Keys that the config sets, and each rule's own value of the others."""
    rules, _ = rules_of(
        MODEL__PANOPTIC_FUSION__STUFF_AREA_LIMIT=300, MODEL__PANOPTIC_FUSION__TASC__AGREEMENT_THRESH=0.65
    )
    starts = {name: dict(zip(rule.keys, rule.start, strict=True)) for name, rule in rules.items()}
    greedy = {"INSTANCES_CONFIDENCE_THRESH": 0.5, "STUFF_CHANNELS_ONLY": False, "STUFF_AREA_LIMIT": 300}
    assert starts == {
        "HeuristicFusion": {**greedy, "OVERLAP_THRESH": 0.5},
        "SeamlessFusion": {**greedy, "OVERLAP_THRESH": 0.5},
        "MaskGuidedFusion": {**greedy, "OVERLAP_THRESH": 0.4, "TASC.AGREEMENT_THRESH": 0.65},
        "UPSNetFusion": {
            "INSTANCES_CONFIDENCE_THRESH": 0.6,
            "OVERLAP_THRESH": 0.3,
            "UPSNET.UNKNOWN": True,
            "STUFF_AREA_LIMIT": 300,
        },
    }
    assert {name: rule.at_input_resolution for name, rule in rules.items()} == {
        "HeuristicFusion": False, "SeamlessFusion": True, "MaskGuidedFusion": False, "UPSNetFusion": True
    }  # fmt: skip


def test_the_start_is_on_the_grid_in_its_place():
    rules, _ = rules_of(
        MODEL__PANOPTIC_FUSION__STUFF_AREA_LIMIT=300, MODEL__PANOPTIC_FUSION__TASC__AGREEMENT_THRESH=0.65
    )
    for rule in rules.values():
        assert len(rule.grid) == len(rule.keys) == len(rule.start)
        for key, values, start in zip(rule.keys, rule.grid, rule.start, strict=True):
            assert start in values and list(values) == sorted(set(values))
            assert set(values) - {start} == set(THRESHOLDS[key].values) - {start}
    grid = dict(zip(rules["MaskGuidedFusion"].keys, rules["MaskGuidedFusion"].grid, strict=True))
    assert grid["STUFF_AREA_LIMIT"][3:6] == (256, 300, 512) and grid["TASC.AGREEMENT_THRESH"][6:8] == (0.6, 0.65)


@pytest.mark.parametrize("name", ["HeuristicFusion", "SeamlessFusion", "MaskGuidedFusion", "UPSNetFusion"])
def test_a_setting_builds_what_its_config_keys_build(name):
    cfg, fusion = model_of()
    rule = rules_of_model(cfg, fusion, [name])[0][name]
    for pick in (0, -1):
        setting = tuple(values[pick] for values in rule.grid)
        values = rule.named_values(setting)
        assert values[f"{PREFIX}.NAME"] == name and len(values) == 1 + len(rule.keys)
        wanted = small_cfg(**FIRST)
        wanted.merge_from_list([word for pair in values.items() for word in pair])
        wanted, built = build_panoptic_fusion(resolve_config(wanted)), rule.build(setting)
        assert type(built) is type(wanted) and not built.training
        for argument in (THRESHOLDS[key].argument for key in rule.keys):
            assert getattr(built, argument) == getattr(wanted, argument)


def test_names_are_checked():
    check_names(["UPSNetFusion"])
    with pytest.raises(UserError, match="--rule: Best is not a fusion rule; available: HeuristicFusion, Mask"):
        check_names(["Best"])
    assert list(rules_of(["UPSNetFusion", "HeuristicFusion"])[0]) == ["UPSNetFusion", "HeuristicFusion"]
    with pytest.raises(UserError, match="no rule can be tuned: SpatialRankingFusion: it has weights"):
        rules_of(["SpatialRankingFusion"])
    with pytest.raises(ConfigError, match="OVERLAP_THRESH is 2.0"):
        rules_of(["HeuristicFusion"])[0]["HeuristicFusion"].build((0.5, 2.0, False, 0))

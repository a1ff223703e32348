"""The study on given counts, against loops over images and folds; what it writes, by hand."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import yaml
from small_networks import small_cfg

from panoptic_fusion import get_cfg, resolve_config
from panoptic_fusion.evaluation.tuning.report import (
    best_yaml,
    comparison_table,
    draw_curves,
    settings_table,
    summary,
    verdict,
    write_study,
)
from panoptic_fusion.evaluation.tuning.rules import PREFIX, Rule
from panoptic_fusion.evaluation.tuning.study import Comparison, Study, TunedRule, compare, study_images

NAMES = ("HeuristicFusion", "UPSNetFusion")


def rule_of(name: str, **arguments) -> Rule:
    """A rule with one key, OVERLAP_THRESH, whose grid has 9 values."""
    return Rule(name, {"overlap_thresh": 0.5, **arguments}, {}, False)


def random_counts(rng, *shape) -> np.ndarray:
    tp, fp, fn = rng.integers(0, 4, (3, *shape, 3))
    return np.stack([tp, fp, fn, tp * rng.uniform(0.5, 1, tp.shape)], axis=-2).astype(float)


def slow_quality(sums: np.ndarray) -> float:
    values = [iou / (tp + fp / 2 + fn / 2) for tp, fp, fn, iou in sums.T.tolist() if tp + fp + fn > 0]
    return 100 * sum(values) / len(values)


def score(task, *, settings, table):
    """Counts of image `task` for all settings."""
    return np.stack([table[name, setting][task] for name, wanted in settings.items() for setting in wanted])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("processes", [1, 2])
def test_held_out_images_are_scored_with_what_the_others_chose(seed, processes):
    rng = np.random.default_rng(seed)
    images, num_folds = 17, 3
    rules = {name: rule_of(name) for name in NAMES}
    values = rules["UPSNetFusion"].grid[0]
    table = {(name, (v,)): random_counts(rng, images) for name in NAMES for v in values}
    study = study_images(
        range(images), partial(score, table=table), rules, {"x": "why"}, NAMES[1], num_folds, processes, 0, ["bad"]
    )
    folds = [i * num_folds // images for i in range(images)]

    def best_value(name, left_out):
        kept = [i for i in range(images) if folds[i] != left_out]
        return max(values, key=lambda v: slow_quality(table[name, (v,)][kept].sum(0)))

    held_out = {}
    for name in NAMES:
        tuned, chosen = study.rules[name], [best_value(name, fold) for fold in range(num_folds)]
        assert tuned.fold_settings == [(v,) for v in chosen] and tuned.setting == (best_value(name, None),)
        assert tuned.quality == pytest.approx(slow_quality(table[name, tuned.setting].sum(0)))
        held_out[name] = np.stack([table[name, (chosen[folds[i]],)][i] for i in range(images)])
        assert tuned.held_out.tuned == pytest.approx(slow_quality(held_out[name].sum(0)))
        assert tuned.held_out.start == pytest.approx(slow_quality(table[name, (0.5,)].sum(0)))
        curve = [(v, slow_quality(table[name, (v,)].sum(0))) for v in values]
        assert [v for v, _ in tuned.curves["OVERLAP_THRESH"]] == list(values)
        assert [q for _, q in tuned.curves["OVERLAP_THRESH"]] == pytest.approx([q for _, q in curve])

    # the rule is chosen without the fold, too
    rule_of_fold = []
    for fold in range(num_folds):
        kept = [i for i in range(images) if folds[i] != fold]
        quality = {name: slow_quality(table[name, (best_value(name, fold),)][kept].sum(0)) for name in NAMES}
        rule_of_fold.append(max(NAMES, key=quality.get))
    assert study.fold_rules == rule_of_fold
    chosen = np.stack([held_out[rule_of_fold[folds[i]]][i] for i in range(images)])
    assert study.choice.tuned == pytest.approx(slow_quality(chosen.sum(0)))
    assert study.choice.start == pytest.approx(study.rules[NAMES[1]].held_out.start)
    assert study.best.quality == max(tuned.quality for tuned in study.rules.values())
    assert (study.images, study.reasons, study.problems) == (images, {"x": "why"}, ["bad"])


def test_an_image_has_no_influence_on_the_settings_that_it_is_scored_with():
    """Whatever the counts of one fold are, its settings are the same."""
    rng = np.random.default_rng(0)
    rules = {name: rule_of(name) for name in NAMES}
    table = {(name, (v,)): random_counts(rng, 12) for name in NAMES for v in rules[name].grid[0]}
    run = partial(study_images, range(12), rules=rules, reasons={}, own_rule=NAMES[0], num_folds=4, processes=1)
    before = run(score=partial(score, table=table), seed=0, problems=[])
    for counts in table.values():
        counts[3:6] = random_counts(rng, 3)  # the second fold
    after = run(score=partial(score, table=table), seed=0, problems=[])
    for name in NAMES:
        assert before.rules[name].fold_settings[1] == after.rules[name].fold_settings[1]
    assert before.fold_rules[1] == after.fold_rules[1]
    assert any(before.rules[n].fold_settings[0] != after.rules[n].fold_settings[0] for n in NAMES)


def test_comparison_of_equal_counts_is_no_gain():
    counts = random_counts(np.random.default_rng(1), 10)
    same = compare(counts, counts)
    assert same.gain == 0 and same.gain_interval == (0, 0) and same.start_interval == same.tuned_interval
    assert same.start_interval[0] <= same.start <= same.start_interval[1]


def a_study(gain: tuple[float, float, float] = (2.0, 1.0, 3.0)) -> Study:
    """Two rules, by hand."""
    comparison = Comparison(30.0, (25.0, 35.0), 30.0 + gain[0], (27.0, 37.0), gain[1:])
    first = TunedRule(
        Rule("MaskGuidedFusion", {"overlap_thresh": 0.4, "agreement_thresh": 0.7, "stuff_area_limit": 256}, {}, False),
        (0.4, 0.2, 1024),
        34.06,
        [(0.4, 0.2, 1024)] * 2,
        comparison,
        {
            "OVERLAP_THRESH": [(0.3, 31.0), (0.4, 34.06)],
            "TASC.AGREEMENT_THRESH": [(0.2, 34.06), (0.7, 33.0)],
            "STUFF_AREA_LIMIT": [(0, 31.0), (256, 32.0), (1024, 34.06)],
        },
    )
    second = TunedRule(
        Rule("UPSNetFusion", {"overlap_thresh": 0.3, "unknown": True}, {}, True),
        (0.3, False),
        31.0,
        [(0.3, False)] * 2,
        comparison,
        {"OVERLAP_THRESH": [(0.3, 31.0)], "UPSNET.UNKNOWN": [(False, 31.0), (True, 30.0)]},
    )
    rules = {"MaskGuidedFusion": first, "UPSNetFusion": second}
    return Study(
        rules, {"SpatialRankingFusion": "no | weights"}, "UPSNetFusion", ["UPSNetFusion"] * 2, comparison, 9, []
    )


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_tables_by_hand():
    rows = cells(comparison_table(a_study()))
    assert rows[0] == ["9 images", "PQ before", "PQ tuned, held out", "PQ gained"]
    wanted = ["30.0 (25.0 to 35.0)", "32.0 (27.0 to 37.0)", "+2.0 (+1.0 to +3.0)"]
    assert rows[2:] == [
        ["MaskGuidedFusion", *wanted], ["UPSNetFusion", *wanted], ["chosen rule (before: UPSNetFusion)", *wanted]
    ]  # fmt: skip
    rows = cells(settings_table(a_study()))
    keys = ["OVERLAP_THRESH", "TASC.AGREEMENT_THRESH", "UPSNET.UNKNOWN", "STUFF_AREA_LIMIT"]
    assert rows[0] == ["before → tuned", *keys, "PQ, not held out"]
    assert rows[2:] == [
        ["MaskGuidedFusion", "0.4", "0.7 → 0.2", "-", "256 → 1024", "34.1"],
        ["UPSNetFusion", "0.3", "-", "True → False", "-", "31.0"],
    ]
    assert "- SpatialRankingFusion was not tuned: no \\| weights" in summary(a_study())
    lines = summary(replace(a_study(), problems=[f"a|{i}" for i in range(1000)])).splitlines()
    assert len(lines) < 70 and "- left out: a\\|0" in lines and lines[-1] == "- and 950 more, see tuning.json"


@pytest.mark.parametrize(
    "gain, words",
    [
        ((2.0, 1.0, 3.0), "Use MaskGuidedFusion with the settings in best.yaml: +2.0 PQ (95% interval +1.0 to +3.0)"),
        ((0.5, -1.0, 2.0), "Tuning shows no certain gain: +0.5 PQ"),
        ((-0.5, -1.0, 0.2), "Tuning shows no certain gain: -0.5 PQ"),
        ((-2.0, -3.0, -1.0), "Keep the settings from before"),
        ((0.0, 0.0, 0.0), "Tuning shows no certain gain: +0.0 PQ"),
    ],
)
def test_verdict(gain, words):
    assert verdict(a_study(gain)).startswith(words)


def test_best_yaml_and_its_command_set_the_same_keys(tmp_path):
    broken = best_yaml(a_study(), ["panoptic-fusion", "fuse", "--output", "two\nlines"])
    assert set(yaml.safe_load(broken)) == {"MODEL"}
    text = best_yaml(a_study(), ["panoptic-fusion", "evaluate", "--model", "my runs/a"])
    (tmp_path / "best.yaml").write_text(text)
    command = next(line for line in text.splitlines() if line.startswith("#   ")).removeprefix("#").strip()
    assert command.startswith(
        "panoptic-fusion evaluate --model 'my runs/a' MODEL.PANOPTIC_FUSION.NAME MaskGuidedFusion "
    )
    from_file, from_words = get_cfg(), get_cfg()
    from_file.merge_from_file(str(tmp_path / "best.yaml"))
    from_words.merge_from_list(command.split("'my runs/a' ")[1].split())
    assert from_file == from_words != get_cfg()
    fusion = from_file.MODEL.PANOPTIC_FUSION
    assert (fusion.OVERLAP_THRESH, fusion.TASC.AGREEMENT_THRESH, fusion.STUFF_AREA_LIMIT) == (0.4, 0.2, 1024)
    assert set(yaml.safe_load(text)) == {"MODEL"}
    cfg = small_cfg()
    cfg.merge_from_file(str(tmp_path / "best.yaml"))
    assert resolve_config(cfg).MODEL.PANOPTIC_FUSION.NAME == "MaskGuidedFusion"


def test_figure_has_a_panel_per_number_and_marks_both_values():
    figure = draw_curves(a_study())
    panels = {axes.get_xlabel(): axes for axes in figure.axes if axes.get_xlabel()}
    assert list(panels) == [f"{PREFIX}.{k}" for k in ("OVERLAP_THRESH", "TASC.AGREEMENT_THRESH", "STUFF_AREA_LIMIT")]
    lines = panels[f"{PREFIX}.STUFF_AREA_LIMIT"].lines
    assert lines[0].get_xydata().tolist() == [[0, 31.0], [256, 32.0], [1024, 34.06]]
    assert [line.get_xydata().tolist() for line in lines[1:]] == [[[256, 32.0]], [[1024, 34.06]]]
    assert [line.get_label() for line in panels[f"{PREFIX}.OVERLAP_THRESH"].lines if len(line.get_xydata()) > 1] == [
        "MaskGuidedFusion"
    ]


def test_files(tmp_path):
    content = write_study(a_study((2.0, float("nan"), float("nan"))), tmp_path, ["evaluate"], {"dataset": "d"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.yaml", "tuning.json", "tuning.md", "tuning.png"]
    text = (tmp_path / "tuning.json").read_text()
    assert json.loads(text) == json.loads(json.dumps(content)) and "NaN" not in text
    assert content["choice"]["gain_interval"] == [None, None]
    assert content["dataset"] == "d" and content["best"][f"{PREFIX}.TASC.AGREEMENT_THRESH"] == 0.2
    assert (tmp_path / "tuning.png").read_bytes().startswith(b"\x89PNG")

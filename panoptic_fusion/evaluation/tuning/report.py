"""Writes the results of tuning: tuning.md (tables), tuning.json, tuning.png (curves) and best.yaml (a config)."""

import os
import shlex
from pathlib import Path
from typing import Any

import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from panoptic_fusion.errors import counted
from panoptic_fusion.files import without_nan, write_atomically, write_json
from panoptic_fusion.markdown import escape_markdown, markdown_table

from ..scores import first_problems
from .rules import THRESHOLDS, Threshold
from .study import Comparison, Interval, Study, TunedRule

STYLES = ("-", "--", "-.", ":")  # so that equal curves of two rules are both visible


def write_study(
    study: Study, folder: str | os.PathLike, command: list[str], settings: dict[str, Any]
) -> dict[str, Any]:
    """Writes tuning.md, tuning.json, tuning.png and best.yaml.

    Args:
        study: result of tuning.
        folder: existing folder for the files.
        command: words of the command that uses a setting, to which the words of the best one are appended.
        settings: what was tuned on and the number of folds, which are added to tuning.json.

    Returns:
        The content of tuning.json.
    """
    folder = Path(folder)
    content = without_nan({**settings, **as_content(study), "command": best_command(study, command)})
    write_json(folder / "tuning.json", content, indent=1)
    write_atomically(folder / "tuning.md", lambda file: file.write(f"{summary(study)}\n".encode()))
    figure = draw_curves(study)
    write_atomically(folder / "tuning.png", lambda file: figure.savefig(file, format="png"))
    write_atomically(folder / "best.yaml", lambda file: file.write(best_yaml(study, command).encode()))
    return content


def summary(study: Study) -> str:
    """Returns the tables and the verdict as Markdown."""
    parts = [comparison_table(study), verdict(study), settings_table(study)]
    notes = [f"- {name} was not tuned: {escape_markdown(reason)}" for name, reason in study.reasons.items()]
    notes += first_problems([f"left out: {problem}" for problem in study.problems], "tuning.json")
    if notes:
        parts.append("\n".join(notes))
    return "\n\n".join(parts)


def comparison_table(study: Study) -> str:
    """Returns the PQ of each rule before and after tuning, with confidence intervals, as a Markdown table."""
    rows = [[name, *_cells(tuned.held_out)] for name, tuned in study.rules.items()]
    rows.append([f"chosen rule (before: {study.own_rule})", *_cells(study.choice)])
    header = [counted(study.images, "image"), "PQ before", "PQ tuned, held out", "PQ gained"]
    return markdown_table(rows, header)


def settings_table(study: Study) -> str:
    """Returns the thresholds of each rule before and after tuning as a Markdown table."""
    keys = list(tuned_thresholds(study))
    rows = []
    for name, tuned in study.rules.items():
        before, after = (dict(zip(tuned.rule.keys, s, strict=True)) for s in (tuned.rule.start, tuned.setting))
        cells = [_change(before[key], after[key]) if key in before else None for key in keys]
        rows.append([name, *cells, tuned.quality])
    return markdown_table(rows, ["before → tuned", *keys, "PQ, not held out"], missing="-")


def tuned_thresholds(study: Study) -> dict[str, Threshold]:
    """Returns the keys of all rules, in the order of `THRESHOLDS`."""
    found = {key: threshold for tuned in study.rules.values() for key, threshold in tuned.rule.thresholds.items()}
    order = list(THRESHOLDS.values())
    return dict(sorted(found.items(), key=lambda item: order.index(item[1])))


def verdict(study: Study) -> str:
    """Returns a sentence that compares the choice with the settings before tuning on held-out images."""
    choice, best = study.choice, study.best.rule.name
    low, high = choice.gain_interval
    gain = f"{choice.gain:+.1f} PQ (95% interval {low:+.1f} to {high:+.1f})"
    if low > 0:
        return f"Use {best} with the settings in best.yaml: {gain} on images that were not used to choose."
    if high < 0:
        return f"Keep the settings from before: the choice loses on images that were not used to choose, {gain}."
    return (
        f"Tuning shows no certain gain: {gain} on images that were not used to choose. As far as these images tell, "
        f"{study.own_rule} with the settings from before is as good as the choice."
    )


def best_yaml(study: Study, command: list[str]) -> str:
    """Returns the best rule and its settings as YAML, with a comment that shows how to use them."""
    rule, setting = study.best.rule, study.best.setting
    nested: dict[str, Any] = {}
    for key, value in rule.named_values(setting).items():
        *parents, name = key.split(".")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    comments = [verdict(study), rule.usage, f"  {shlex.join(best_command(study, command))}", rule.note]
    lines = [line for text in comments for line in text.splitlines()]  # a path may contain a line break
    return "".join(f"# {line}\n" for line in lines) + yaml.safe_dump(nested, sort_keys=False)


def best_command(study: Study, command: list[str]) -> list[str]:
    """Returns the words of a command with the words of the best rule and its settings."""
    return [*command, *study.best.rule.command_words(study.best.setting)]


def as_content(study: Study) -> dict[str, Any]:
    """Returns the results as JSON content; PQ in percent."""
    return {
        "images": study.images,
        "best": study.best.rule.named_values(study.best.setting),
        "verdict": verdict(study),
        "choice": {**_as_dict(study.choice), "rule_without_fold": study.fold_rules},
        "rules": {name: _rule_content(tuned) for name, tuned in study.rules.items()},
        "not_tuned": study.reasons,
        "problems": study.problems,
    }


def draw_curves(study: Study) -> Figure:
    """Draws PQ against each numeric threshold: one panel per key, one line per rule.

    All other keys of a rule have their tuned values. A ring marks the value before tuning, a dot the tuned value.
    """
    thresholds = {
        key: threshold
        for key, threshold in tuned_thresholds(study).items()
        if not isinstance(threshold.values[0], bool | str)
    }
    columns = min(2, len(thresholds))
    lines = -(-len(thresholds) // columns)
    figure = Figure(figsize=(5 * columns, 3.4 * lines), dpi=110)
    FigureCanvasAgg(figure)
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    for axes, (key, threshold) in zip(panels, thresholds.items(), strict=False):
        for number, tuned in enumerate(study.rules.values()):
            if key in tuned.curves:
                _draw_curve(axes, tuned, key, number)
        if threshold.argument == "stuff_area_limit":
            axes.set_xscale("symlog", linthresh=64, linscale=0.5)
            ticks = threshold.values[::2]
            axes.set_xticks(ticks, ticks)
            axes.minorticks_off()
        axes.set_xlabel(next(t.rule.full_name(key) for t in study.rules.values() if key in t.curves), fontsize=8)
        axes.set_ylabel("PQ")
        axes.grid(alpha=0.3)
    for axes in panels[len(thresholds) :]:
        axes.set_axis_off()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=len(labels), fontsize=8)
    figure.tight_layout(rect=(0, 0, 1, 0.95))
    return figure


def _draw_curve(axes: Any, tuned: TunedRule, key: str, number: int) -> None:
    values, quality = zip(*tuned.curves[key], strict=True)
    color, axis = f"C{number}", tuned.rule.keys.index(key)
    axes.plot(values, quality, STYLES[number % len(STYLES)], color=color, linewidth=1.4, label=tuned.rule.name)
    for setting, face in ((tuned.rule.start, "white"), (tuned.setting, color)):
        place = values.index(setting[axis])
        axes.plot(values[place], quality[place], "o", color=color, markerfacecolor=face, markersize=6)


def _cells(comparison: Comparison) -> list[str]:
    return [
        _with_interval(comparison.start, comparison.start_interval, ""),
        _with_interval(comparison.tuned, comparison.tuned_interval, ""),
        _with_interval(comparison.gain, comparison.gain_interval, "+"),
    ]


def _with_interval(value: float, between: Interval, sign: str) -> str:
    return f"{value:{sign}.1f} ({between[0]:{sign}.1f} to {between[1]:{sign}.1f})"


def _change(before: Any, after: Any) -> str:
    return str(after) if before == after else f"{before} → {after}"


def _as_dict(comparison: Comparison) -> dict[str, Any]:
    names = ("start", "start_interval", "tuned", "tuned_interval", "gain", "gain_interval")
    return {name: getattr(comparison, name) for name in names}


def _rule_content(tuned: TunedRule) -> dict[str, Any]:
    keys = tuned.rule.keys
    return {
        "start": dict(zip(keys, tuned.rule.start, strict=True)),
        "tuned": dict(zip(keys, tuned.setting, strict=True)),
        "PQ_tuned_not_held_out": tuned.quality,
        "tuned_without_fold": [dict(zip(keys, setting, strict=True)) for setting in tuned.fold_settings],
        "held_out": _as_dict(tuned.held_out),
        "curves": tuned.curves,
    }

"""Tunes the fusion of a model on a dataset: runs the network, searches, and scores the choices on held-out images.

Each fold of images is scored with the settings that were best on all other folds. The PQ of the tuned rule is computed
from the sum of these held-out counts over all images, so no image is scored with a setting that was chosen on it. The
rule itself is chosen in the same way.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from torch import nn

from panoptic_fusion.errors import UserError
from panoptic_fusion.files import remove_partial_files
from panoptic_fusion.networks.trained import build_predictor
from panoptic_fusion.processes import map_in_processes, with_progress

from .heads import cache_folder, cache_path, run_network
from .rules import TunableRule, rules_of_model
from .scoring import ImageTask, annotation_problem, score_image
from .search import FoldSums, Setting, folds_of, line_through, search_rules
from .statistics import interval, quality_of_sums, resampled_quality

Interval = tuple[float, float]


@dataclass(frozen=True)
class Comparison:
    """Comparison of start and tuned settings on the same images: PQ in percent and confidence intervals.

    Attributes:
        start, tuned: PQ with the start settings, and with the tuned settings on held-out images.
        start_interval, tuned_interval: confidence intervals of both, over the images.
        gain_interval: confidence interval of tuned - start, from paired resamples.
    """

    start: float
    start_interval: Interval
    tuned: float
    tuned_interval: Interval
    gain_interval: Interval

    @property
    def gain(self) -> float:
        """PQ gained, in percent."""
        return self.tuned - self.start


@dataclass(frozen=True)
class TunedRule:
    """Tuning result of one rule.

    Attributes:
        rule: fusion rule that was tuned.
        setting: best setting on all images.
        quality: PQ of `setting` in percent on the same images, which is too optimistic.
        fold_settings: best setting without each fold.
        held_out: comparison with the start on held-out images.
        curves: {key: [(value, PQ in percent)]} on all images, with the other keys as in `setting`.
    """

    rule: TunableRule
    setting: Setting
    quality: float
    fold_settings: list[Setting]
    held_out: Comparison
    curves: dict[str, list[tuple[Any, float]]]


@dataclass(frozen=True)
class Study:
    """Result of tuning.

    Attributes:
        rules: {name: result}, in descending order of PQ on all images.
        reasons: {name: reason why the rule could not be tuned}.
        own_rule: name of the model's rule.
        fold_rules: name of the best rule without each fold.
        choice: comparison of the chosen rule and setting with the model's own, on held-out images.
        images: number of images.
        problems: descriptions of the images that were left out.
    """

    rules: dict[str, TunedRule]
    reasons: dict[str, str]
    own_rule: str
    fold_rules: list[str]
    choice: Comparison
    images: int
    problems: list[str]

    @property
    def best(self) -> TunedRule:
        """Rule and setting with the highest PQ on all images."""
        return next(iter(self.rules.values()))


def tune_model(
    cfg: CfgNode,
    records: Sequence[dict[str, Any]],
    output: str | os.PathLike,
    *,
    names: Sequence[str] = (),
    num_folds: int = 5,
    processes: int | None = None,
    seed: int = 0,
) -> Study:
    """Tunes the fusion of a model.

    Args:
        cfg: resolved config of a network with instances and semantic segmentation.
        records: dicts of the dataset.
        output: existing folder for the cached results of the heads.
        names: names of rules to tune, in addition to the model's own; default: all that the model can feed.
        num_folds: number of folds.
        processes: number of processes that fuse; None: one per core.
        seed: seed of the confidence intervals.

    Raises:
        UserError: a rule is unknown, or there are fewer usable images than folds.
        DiskError: the disk is full.
    """
    model = build_predictor(cfg).model
    own_rule = cfg.MODEL.PANOPTIC_FUSION.NAME
    rules, reasons = rules_of_model(cfg, model.fusion, (own_rule, *names) if names else ())
    tasks, problems = cache_images(cfg, model, records, output, "running the network")
    check_enough(tasks, num_folds, problems)
    space = model.fusion.label_space
    score = partial(score_image, rules=rules, num_things=space.num_things, num_stuff=space.num_stuff)
    return study_images(tasks, score, rules, reasons, own_rule, num_folds, processes, seed, problems)


def cache_images(
    cfg: CfgNode, model: nn.Module, records: Sequence[dict[str, Any]], output: str | os.PathLike, title: str
) -> tuple[list[ImageTask], list[str]]:
    """Runs the network on the images that are not cached yet.

    Args:
        cfg, records, output: see `tune_model`.
        model: the network, in eval mode.
        title: title of the progress messages.

    Returns:
        The images that can be scored, and descriptions of the others.

    Raises:
        DiskError: the disk is full.
    """
    folder = cache_folder(output, cfg, model)
    folder.mkdir(parents=True, exist_ok=True)
    remove_partial_files(folder)
    tasks, problems = [], []
    for record, problem in with_progress(run_network(cfg, model, list(records), folder), len(records), title):
        problem = problem or annotation_problem(record, cfg.INPUT.MAX_PIXELS)
        if problem:
            problems.append(problem)
        else:
            tasks.append(ImageTask(str(cache_path(folder, record)), record, cfg.INPUT.MAX_PIXELS))
    return tasks, problems


def check_enough(tasks: Sequence[Any], num_folds: int, problems: Sequence[str]) -> None:
    """Checks that each fold gets an image.

    Raises:
        UserError: there are fewer images than folds; the message has the first of the problems.
    """
    if len(tasks) < num_folds:
        text = f" ({problems[0]})" if problems else ""
        raise UserError(f"{len(tasks)} usable images are too few for {num_folds} folds{text}: lower --folds")


def study_images(
    tasks: Sequence[Any],
    score: Any,
    rules: Mapping[str, TunableRule],
    reasons: dict[str, str],
    own_rule: str,
    num_folds: int,
    processes: int | None,
    seed: int,
    problems: list[str],
) -> Study:
    """Runs the search on cached images; see `tune_model`.

    Args:
        tasks: images in the order of the dataset.
        score: function that returns the counts (number of settings, 4, C) of an image for {rule: settings},
            see `score_image`.
        rules, reasons, own_rule, num_folds, processes, seed, problems: see `tune_model` and `Study`.
    """
    folds = folds_of(len(tasks), num_folds)
    passes = 0

    def counts(settings: dict[str, list[Setting]]) -> Any:
        nonlocal passes
        passes += 1
        total = sum(map(len, settings.values()))
        results = map_in_processes(partial(score, settings=settings), tasks, processes)
        return with_progress(results, len(tasks), f"pass {passes}: scoring {total} settings")

    def fold_sums(settings: dict[str, list[Setting]]) -> dict[tuple[str, Setting], np.ndarray]:
        total: Any = 0
        for fold, sums in zip(folds, counts(settings), strict=True):
            if not np.ndim(total):
                total = np.zeros((num_folds, *sums.shape))
            total[fold] += sums
        pairs = [(name, setting) for name, wanted in settings.items() for setting in wanted]
        return {pair: total[:, i] for i, pair in enumerate(pairs)}

    memory = FoldSums(fold_sums)
    best = search_rules({name: (rule.grid, rule.start) for name, rule in rules.items()}, memory, num_folds)
    lines = {
        (name, key): line_through(best[name, None], axis, rule.grid[axis])
        for name, rule in rules.items()
        for axis, key in enumerate(rule.keys)
    }
    memory.require([(name, setting) for (name, _), line in lines.items() for setting in line])

    def best_rule(fold: int) -> str:
        return max(rules, key=lambda name: np.nan_to_num(memory.quality(name, best[name, fold], fold), nan=-1))

    # Counts per image, for the few reported settings.
    reported = {
        name: list(dict.fromkeys([rule.start, *(best[name, fold] for fold in range(num_folds))]))
        for name, rule in rules.items()
    }
    per_image = np.stack(list(counts(reported)), axis=1)
    of_setting = dict(zip(((n, s) for n, settings in reported.items() for s in settings), per_image, strict=True))

    def held_out(rule_of_fold: Sequence[str]) -> np.ndarray:
        choices = [of_setting[name, best[name, fold]] for fold, name in enumerate(rule_of_fold)]
        return np.stack([choices[fold][i] for i, fold in enumerate(folds)])

    tuned = {
        name: TunedRule(
            rule,
            best[name, None],
            100 * memory.quality(name, best[name, None]),
            [best[name, fold] for fold in range(num_folds)],
            compare(of_setting[name, rule.start], held_out([name] * num_folds), seed),
            {
                key: [(s[axis], 100 * memory.quality(name, s)) for s in lines[name, key]]
                for axis, key in enumerate(rule.keys)
            },
        )
        for name, rule in rules.items()
    }
    fold_rules = [best_rule(fold) for fold in range(num_folds)]
    choice = compare(of_setting[own_rule, rules[own_rule].start], held_out(fold_rules), seed)
    ordered = dict(sorted(tuned.items(), key=lambda item: -np.nan_to_num(item[1].quality, nan=-1)))
    return Study(ordered, reasons, own_rule, fold_rules, choice, len(tasks), problems)


def compare(start: np.ndarray, tuned: np.ndarray, seed: int = 0) -> Comparison:
    """Compares two predictors on the same images by their counts (N, 4, C) per image."""
    resampled = [100 * resampled_quality(sums, seed) for sums in (start, tuned)]
    values = [100 * float(quality_of_sums(sums.sum(axis=0))) for sums in (start, tuned)]
    intervals = [interval(samples) for samples in resampled]
    return Comparison(values[0], intervals[0], values[1], intervals[1], interval(resampled[1] - resampled[0]))

"""Checks the runs of an ablation before the first one starts."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from detectron2.config import CfgNode

from panoptic_fusion.checkpoint import check_weights_file, named_checkpoint
from panoptic_fusion.config import read_config, resolve_config
from panoptic_fusion.data.catalogs import forgotten_datasets
from panoptic_fusion.errors import ConfigError, UserError
from panoptic_fusion.evaluation import check_evaluators
from panoptic_fusion.evaluation.results import GROUP_SUFFIXES, MEASURES
from panoptic_fusion.evaluation.scores import SIZES
from panoptic_fusion.networks.downloads import check_downloads

from .spec import Job, Spec

QUALITY = (*MEASURES, *(f"PQ_{size}" for size in SIZES))
AP = {"AP", "AP50", "AP75", "APs", "APm", "APl"}
TASKS = {  # as in results.json
    "panoptic_seg": {"images", *(f"{name}{group}" for name in QUALITY for group in GROUP_SUFFIXES.values())},
    "segm": AP,
    "bbox": AP,
    "sem_seg": {"mIoU_sem"},
    "cityscapes_instance": {"AP", "AP50"},
    "cityscapes_instance_panoptic": {"AP", "AP50"},
    "cityscapes_sem_seg": {"IoU", "iIoU", "IoU_sup", "iIoU_sup"},
    "residual": {"mean", "recall_semantic", "recall_instances", "both_miss"},
}
OF_CLASSES = {"panoptic_seg": "PQ-", "segm": "AP-", "bbox": "AP-", "sem_seg": "IoU-"}


def check_runs(spec: Spec, *, allow_download: bool = False) -> dict[str, CfgNode]:
    """Resolves and returns the config of each run.

    A mistake in the last run is therefore found before the others have trained for hours.

    Raises:
        ConfigError: the config of a run is invalid or names an address that needs --allow-download, its evaluators
            cannot be used, or a metric is unknown.
    """
    configs = {}
    for run in spec.runs:
        try:
            with forgotten_datasets():  # runs are separate processes, and a name can mean other data
                cfg = read_config(run.base, run.opts)
                check_downloads(cfg, allow_download=allow_download)
                cfg = configs[run.name] = resolve_config(cfg)
                if cfg.DATASETS.TEST:
                    check_evaluators(cfg)
        except UserError as error:
            raise ConfigError(f"run {run.name!r}: {error}") from error
    classes = {category["name"] for cfg in configs.values() for category in cfg.MODEL.CATEGORIES}
    for metric in spec.metrics:
        _check_metric(metric, classes)
    return configs


def check_initial_weights(jobs: Iterable[Job], configs: Mapping[str, CfgNode], output: Path) -> None:
    """Checks that the weights from which training runs will start exist, unless an earlier run may write them.

    Args:
        jobs: all jobs. Finished and interrupted ones no longer need the weights.
        configs: result of `check_runs`.
        output: folder of the runs.

    Raises:
        FileNotFoundError: a file is missing; the message names the run.
    """
    for job in jobs:
        weights = configs[job.run.name].MODEL.WEIGHTS
        made_here = Path(weights).absolute().is_relative_to(output.absolute())
        if job.source is not None or job.is_finished() or named_checkpoint(job.folder) or made_here:
            continue
        try:
            check_weights_file(weights)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"run {job.run.name!r}: {error}. Train it first; the comments in the YAML file may say how"
            ) from error


def _check_metric(metric: str, classes: set[str]) -> None:
    task, name = ["panoptic_seg", *metric.split()][-2:]
    if task not in TASKS:
        raise ConfigError(f"metrics: {metric!r} belongs to no task; available: {', '.join(TASKS)}")
    prefix = OF_CLASSES.get(task, "")
    of_class = prefix and name.startswith(prefix) and name.removeprefix(prefix) in classes
    if name not in TASKS[task] and not of_class:
        each = f", {prefix}<class>" if prefix else ""
        raise ConfigError(f"metrics: {metric!r} is unknown; {task} has {', '.join(sorted(TASKS[task]))}{each}")

"""Scores settings of fusion rules on one image from its cached results.

The semantic logits at the size of the fusion and their argmax are computed once per image. The rules themselves run
unchanged, once per setting.

Shapes: R is the number of instances, C the number of classes, (H, W) the size at which a rule fuses.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from detectron2.structures import Instances

from panoptic_fusion.data.annotation import load_annotation
from panoptic_fusion.data.dataset_errors import DatasetError, raise_error
from panoptic_fusion.modeling.fusion import SemSegLogits
from panoptic_fusion.modeling.fusion.finite import PanopticSeg
from panoptic_fusion.networks.inference import ImageHeads, Size, rescale_instances
from panoptic_fusion.processes import use_one_thread

from ..panoptic_quality import PanopticQuality, class_index
from .heads import load_heads
from .rules import Rule
from .search import Setting

MOST_REMEMBERED = 2**26  # float elements of logits at full size that are kept per image


@dataclass(frozen=True)
class ImageTask:
    """One image to score.

    Attributes:
        cached: path of the cached results, see `heads.py`.
        record: dataset dict of the image.
        max_pixels: largest number of pixels of the ground-truth PNG, see INPUT.MAX_PIXELS.
    """

    cached: str
    record: Mapping[str, Any]
    max_pixels: int


@dataclass(frozen=True)
class RememberedLogits(SemSegLogits):
    """Semantic logits whose full-size strips and argmax are computed once.

    To save memory, logits of more than `MOST_REMEMBERED` elements at full size are computed each time.
    """

    remembered: dict[Any, Any] = field(default_factory=dict)

    def argmax(self) -> torch.Tensor:
        """See `SemSegLogits`."""
        if "argmax" not in self.remembered:
            self.remembered["argmax"] = super().argmax()
        return self.remembered["argmax"]

    def strips(self) -> Iterator[tuple[int, int, torch.Tensor]]:
        """See `SemSegLogits`."""
        if self.num_channels * self.output_size[0] * self.output_size[1] > MOST_REMEMBERED:
            yield from super().strips()
            return
        if "strips" not in self.remembered:
            self.remembered["strips"] = list(super().strips())
        yield from self.remembered["strips"]

    def select(self, channels: slice | list[int] | torch.Tensor) -> SemSegLogits:
        """See `SemSegLogits`."""
        key = ("channels", repr(channels))
        if key not in self.remembered:
            selected = super().select(channels)
            self.remembered[key] = RememberedLogits(
                selected.logits, selected.padded_size, selected.image_size, selected.output_size
            )
        return self.remembered[key]


def score_image(
    task: ImageTask,
    rules: Mapping[str, Rule],
    settings: Mapping[str, Sequence[Setting]],
    num_things: int,
    num_stuff: int,
) -> np.ndarray:
    """Scores settings on one image.

    Args:
        task: image to score.
        rules: {name: rule}.
        settings: {name of a rule: its settings}.
        num_things, num_stuff: T and S.

    Returns:
        (number of settings, 4, C) float64: tp, fp, fn and IoU sum per class, in the order of `settings`.

    Raises:
        DatasetError, ValueError: the ground truth or the cached results cannot be read.
    """
    image = load_heads(task.cached)
    prepared: dict[Size, tuple[SemSegLogits, Instances]] = {}

    def fuse(name: str, setting: Setting) -> PanopticSeg:
        rule = rules[name]
        size = image.heads.image_size if rule.at_input_resolution else image.output_size
        if size not in prepared:
            prepared[size] = _prepare(image.heads, size)
        return rule.build(setting)(*prepared[size], image.output_size)

    return score_settings(fuse, task.record, settings, task.max_pixels, num_things, num_stuff)


def score_settings(
    fuse: Callable[[str, Setting], PanopticSeg],
    record: Mapping[str, Any],
    settings: Mapping[str, Sequence[Setting]],
    max_pixels: int,
    num_things: int,
    num_stuff: int,
) -> np.ndarray:
    """Fuses one image with several settings and scores the results.

    Args:
        fuse: function that fuses the image with the rule of this name and a setting. The result has the contiguous
            category ids of the ground truth.
        record: dataset dict of the image.
        settings, num_things, num_stuff: see `score_image`.
        max_pixels: see `ImageTask`.

    Returns:
        The counts described in `score_image`.
    """
    use_one_thread()
    labels, segments = ground_truth(record, num_things, max_pixels)
    sums = []
    for name, wanted in settings.items():
        for setting in wanted:
            with torch.no_grad():
                panoptic_map, found = fuse(name, setting)
            quality = PanopticQuality(num_things, num_stuff)
            quality.update(
                panoptic_map.numpy(),
                {s["id"]: class_index(s, num_things) for s in found},
                labels,
                segments,
                name=str(record["file_name"]),
            )
            sums.append(quality.sums_of(quality.state()))
    return np.stack(sums)


def ground_truth(
    record: Mapping[str, Any], num_things: int, max_pixels: int
) -> tuple[np.ndarray, list[tuple[int, int, bool]]]:
    """Reads the ground truth of a dataset dict.

    Returns:
        Labels (H, W) int32, 0 = void, k = segment k; and (k, class index, is crowd) of each segment, with class
        indices as in `PanopticQuality`. Small labels are counted faster than the ids of the PNG. A segment without a
        pixel is kept and counts as missed, as in the evaluation.

    Raises:
        DatasetError: the PNG is missing or invalid.
    """

    def report(error: DatasetError) -> None:
        if error.kind != "segment without pixel":
            raise_error(error)

    segments = [
        (k, class_index(segment, num_things), segment.get("iscrowd") == 1)
        for k, segment in enumerate(record["segments_info"], start=1)
    ]
    return load_annotation(record, report, max_pixels), segments


def annotation_problem(record: Mapping[str, Any], max_pixels: int) -> str:
    """Returns why the ground truth of an image cannot be used, or "" if it can."""
    try:
        ground_truth(record, 0, max_pixels)
    except DatasetError as error:
        return str(error)
    return ""


def _prepare(heads: ImageHeads, size: Size) -> tuple[SemSegLogits, Instances]:
    """Returns the inputs of a rule at one size."""
    sem_seg = RememberedLogits(heads.sem_seg_logits, heads.padded_size, heads.image_size, size)
    return sem_seg, rescale_instances(heads.instances, size)

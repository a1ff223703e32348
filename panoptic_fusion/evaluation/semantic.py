"""Evaluates the semantic head alone: mIoU of the argmax over its channels, before the fusion."""

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from ..data.annotation import load_annotation, semantic_map
from ..data.image_header import MAX_PIXELS
from ..data.label_space import IGNORE_LABEL, LabelSpace
from ..files import unused_name
from ..markdown import markdown_table
from .records import output_of, record_of, warn_of_missing
from .repeated_images import first_of_each

logger = logging.getLogger(__name__)


class SemanticEvaluator(DatasetEvaluator):
    """Evaluator of the mIoU of `sem_seg`, the logits of the semantic head, on a registered dataset.

    The classes are the channels of the head's ontology: stuff and things (`full`), stuff and one class for all things
    (`collapsed`), or stuff only (`stuff`, which ignores pixels of things). Void pixels are ignored. Crowd regions keep
    their class. An image counts once, even if a sampler repeats it.
    """

    def __init__(
        self, dataset_name: str, ontology: str, *, distributed: bool = True, max_pixels: int = MAX_PIXELS
    ) -> None:
        """Initializes the evaluator.

        Args:
            dataset_name: name of a dataset registered by `panoptic_fusion.data.register_panoptic`.
            ontology: MODEL.SEM_SEG_HEAD.ONTOLOGY of the model.
            distributed: whether to sum over all processes.
            max_pixels: largest number of pixels of a ground-truth PNG, see INPUT.MAX_PIXELS.
        """
        self._dataset_name = dataset_name
        self._images = {record["image_id"]: record for record in DatasetCatalog.get(dataset_name)}
        self._label_space = LabelSpace.from_metadata(MetadataCatalog.get(dataset_name))
        self._ontology = ontology
        self._num_channels = self._label_space.num_channels(ontology)
        self._distributed = distributed
        self._max_pixels = max_pixels
        self.reset()

    def reset(self) -> None:
        """Forgets the images seen."""
        self._areas: dict[Any, np.ndarray] = {}

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Adds a batch; the outputs are not changed.

        Args:
            inputs: input dicts with the image_id of an image of the dataset.
            outputs: output dicts with sem_seg (C, H, W) float, at the resolution of the ground truth.

        Raises:
            UserError: an image is not in the dataset.
            DatasetError: the ground-truth PNG is missing or invalid.
            ValueError: sem_seg is missing or has the wrong number of channels or the wrong size; the message names the
                image.
        """
        for image, output in zip(inputs, outputs, strict=True):
            record = record_of(image, self._images, self._dataset_name)
            if record["image_id"] in self._areas:
                continue
            labels = load_annotation(record, max_pixels=self._max_pixels)
            gt = semantic_map(labels, record["segments_info"], self._label_space, self._ontology)
            logits = torch.as_tensor(output_of(output, "sem_seg", record["file_name"]))
            if logits.shape != (self._num_channels, *gt.shape):
                expected = (self._num_channels, *gt.shape)
                raise ValueError(f"{record['file_name']}: sem_seg is {tuple(logits.shape)} and must be {expected}")
            predicted = logits.argmax(dim=0).cpu().numpy()
            self._areas[record["image_id"]] = class_areas(gt, predicted, self._num_channels)

    def evaluate(self) -> OrderedDict:
        """Sums over the processes, logs and returns the results; all processes must call it.

        Returns:
            {"sem_seg": {"mIoU_sem", "IoU-<class>": x 100}}, empty except on rank 0. The mean is over the classes with a
            pixel in the ground truth. Other classes are NaN, and so is the mean without any class.
        """
        kept = first_of_each(self._areas) if self._distributed else list(self._areas)
        areas, seen = np.zeros((3, self._num_channels), np.int64), len(kept)
        for image_id in kept:
            areas += self._areas[image_id]
        if self._distributed:
            parts = comm.gather((areas, seen))
            if not comm.is_main_process():
                return OrderedDict()
            areas, seen = (sum(column) for column in zip(*parts, strict=True))
        warn_of_missing(seen, len(self._images), self._dataset_name)
        iou = 100 * intersection_over_union(areas)
        mean = float(np.nanmean(iou)) if not np.isnan(iou).all() else float("nan")
        names = channel_names(self._label_space, self._ontology)
        rows = [["mIoU_sem", mean], *zip(names, iou.tolist(), strict=True)]
        logger.info("%s: semantic head\n%s", self._dataset_name, markdown_table(rows, ["class", "IoU"]))
        per_class = {f"IoU-{name}": value for name, value in zip(names, iou.tolist(), strict=True)}
        return OrderedDict(sem_seg={"mIoU_sem": mean, **per_class})


def class_areas(gt: np.ndarray, predicted: np.ndarray, num_channels: int) -> np.ndarray:
    """Counts the pixels of each channel in both maps, in the ground truth, and in the prediction: (3, C) int64.

    Args:
        gt: (H, W) integer channels; pixels with `IGNORE_LABEL` are ignored in both maps.
        predicted: (H, W) integer channels in 0..C - 1.
        num_channels: C.
    """
    valid = gt != IGNORE_LABEL
    gt, predicted = gt[valid], predicted[valid]
    parts = (gt[gt == predicted], gt, predicted)
    return np.stack([np.bincount(part, minlength=num_channels) for part in parts])


def intersection_over_union(areas: np.ndarray) -> np.ndarray:
    """Returns the IoU (C,) from the sums (3, C) of `class_areas`; NaN for a channel without a ground-truth pixel."""
    both, gt, predicted = areas
    return np.divide(both, gt + predicted - both, out=np.full(len(gt), np.nan), where=gt > 0)


def channel_names(label_space: LabelSpace, ontology: str) -> list[str]:
    """Returns the name of each channel; the things channel of `collapsed` is "things"."""
    names = list(label_space.stuff_classes)
    if ontology == "collapsed":
        return [*names, unused_name("things", set(names))]
    return [*names, *(label_space.thing_classes if ontology == "full" else ())]

"""Residual between the things masks of the two heads over a dataset (TASCNet, section 3.2 and figure 3)."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from ..data.annotation import load_annotation
from ..data.image_header import MAX_PIXELS
from .records import output_of, record_of, warn_of_missing
from .repeated_images import first_of_each


class ResidualEvaluator(DatasetEvaluator):
    """Evaluator of how well two things masks agree, and of how many thing pixels they find.

    It reads the output `things_masks` of PanopticRCNN (see `modeling.fusion.tasc_loss.things_masks`). The residual is
    the mean of |semantic things mask - flattened instances| per image, then over the images. Two heads that both miss a
    thing agree, so a network can lower the residual by claiming less. The recalls and the pixels that both heads miss
    show whether it does. They count the pixels of things, without crowd regions, at the resolution of the masks, over
    all images together. A head claims a pixel if its mask is above 0. A repeated image counts once.
    """

    def __init__(self, dataset_name: str, *, distributed: bool = True, max_pixels: int = MAX_PIXELS):
        """Initializes the evaluator.

        Args:
            dataset_name: name of a dataset registered by `panoptic_fusion.data.register_panoptic`.
            distributed: whether to collect from all processes.
            max_pixels: largest number of pixels of a ground-truth PNG, see INPUT.MAX_PIXELS.
        """
        self._dataset_name = dataset_name
        self._images = {record["image_id"]: record for record in DatasetCatalog.get(dataset_name)}
        self._distributed = distributed
        self._max_pixels = max_pixels
        self.reset()

    def reset(self) -> None:
        """Removes all images seen so far."""
        # image id -> residual, and the pixels of things: all, claimed by the semantic head, by the instances, by none
        self._seen: dict[Any, tuple[float, np.ndarray]] = {}

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Adds a batch of images.

        Args:
            inputs: dicts with the image_id of an image of the dataset.
            outputs: dicts with things_masks, two (a, b) float tensors in [0, 1].

        Raises:
            UserError: an image is not in the dataset.
            DatasetError: the ground-truth PNG is missing or invalid.
            ValueError: things_masks is missing; the message names the image.
        """
        for image, output in zip(inputs, outputs, strict=True):
            record = record_of(image, self._images, self._dataset_name)
            if record["image_id"] in self._seen:
                continue
            masks = output_of(output, "things_masks", record["file_name"])
            semantic, instance = torch.stack(tuple(masks)).cpu().numpy()
            things = self._things(record, semantic.shape)
            by_semantic, by_instance = (semantic > 0) & things, (instance > 0) & things
            found = [things, by_semantic, by_instance, things & ~by_semantic & ~by_instance]
            counts = np.array([np.count_nonzero(mask) for mask in found])
            self._seen[record["image_id"]] = float(np.abs(semantic - instance).mean()), counts

    def evaluate(self) -> OrderedDict:
        """Returns the results on rank 0, and an empty dict elsewhere; all processes must call it.

        Returns:
            {"residual": {"mean", "recall_semantic", "recall_instances", "both_miss"}}, all in percent. NaN without
            images, or without thing pixels.
        """
        kept = first_of_each(self._seen) if self._distributed else self._seen
        seen = [self._seen[image_id] for image_id in kept]
        if self._distributed:
            seen = [image for part in comm.gather(seen) for image in part]
            if not comm.is_main_process():
                return OrderedDict()
        warn_of_missing(len(seen), len(self._images), self._dataset_name)
        mean = sum(residual for residual, _ in seen) / len(seen) if seen else float("nan")
        things, *found = sum((counts for _, counts in seen), np.zeros(4, np.int64)).tolist()
        shares = [100 * count / things if things else float("nan") for count in found]
        names = ("recall_semantic", "recall_instances", "both_miss")
        return OrderedDict({"residual": {"mean": 100 * mean, **dict(zip(names, shares, strict=True))}})

    def _things(self, record: Mapping[str, Any], size: tuple[int, int]) -> np.ndarray:
        """Returns whether each pixel of a map is a thing that is not a crowd region: `size` bool, nearest neighbor."""
        labels = load_annotation(record, max_pixels=self._max_pixels)
        rows, cols = ((np.arange(n) + 0.5) * length // n for n, length in zip(size, labels.shape, strict=True))
        is_thing = [s["isthing"] and not s.get("iscrowd", 0) for s in record["segments_info"]]
        return np.array([False, *is_thing], bool)[labels[np.ix_(rows.astype(int), cols.astype(int))]]

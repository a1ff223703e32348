"""Evaluator of panoptic quality: a detectron2 `DatasetEvaluator` around `PanopticQuality`."""

import logging
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from ..data.annotation import load_annotation, read_id_map
from ..data.image_header import MAX_PIXELS
from ..data.label_space import LabelSpace
from ..errors import UserError
from ..files import safe_name, unused_name, without_nan, write_json
from ..markdown import markdown_table
from .matching import count_image
from .panoptic_quality import PQ_DAGGER_RULES
from .prediction import panoptic_prediction
from .repeated_images import first_of_each
from .scores import GROUPS, SIZES, Scores
from .submission import SubmissionWriter

logger = logging.getLogger(__name__)

_GROUPS = dict(zip(GROUPS, ("", "_th", "_st"), strict=True))


class PanopticQualityEvaluator(DatasetEvaluator):
    """Evaluator of PQ, PQ-dagger and mIoU of `panoptic_seg` on a registered dataset.

    Each image is scored when it is predicted, at the resolution of its ground truth. Only the sums of the classes that
    occur in an image are kept. An image counts once, even if a sampler that pads the last batch repeats it in the same
    or another process. Only the images seen are scored, which may be a subset of the dataset. Outputs are not modified.
    """

    def __init__(
        self,
        dataset_name: str,
        *,
        distributed: bool = True,
        output_dir: str | None = None,
        write_predictions: bool = False,
        pq_dagger: str = "matched",
        max_pixels: int = MAX_PIXELS,
        boundary: bool = False,
    ):
        """Initializes the evaluator.

        Args:
            dataset_name: name of a dataset registered by `panoptic_fusion.data.register_panoptic`.
            distributed: whether to sum over all processes. Otherwise each process reports the images it has seen.
            output_dir: folder for panoptic_quality.json, the results with the counts of each class. None writes
                nothing.
            write_predictions: whether to also write the predictions for submission servers: the PNGs to
                `output_dir`/panoptic_predictions/, and panoptic_predictions.json next to that folder.
            pq_dagger: "matched" or "ground_truth", see `PanopticQuality.compute`.
            max_pixels: largest number of pixels of a ground-truth PNG, see INPUT.MAX_PIXELS.
            boundary: whether to also compute boundary PQ, which takes several times as long as PQ.

        Raises:
            UserError: `write_predictions` is set without `output_dir`, or `pq_dagger` is unknown.
            DatasetError: the dataset's JSON is invalid.
        """
        if write_predictions and output_dir is None:
            raise UserError("write_predictions needs an output_dir")
        if pq_dagger not in PQ_DAGGER_RULES:
            raise UserError(f"pq_dagger is {pq_dagger!r}; it can be one of {', '.join(PQ_DAGGER_RULES)}")
        self._dataset_name = dataset_name
        self._images = {record["image_id"]: record for record in DatasetCatalog.get(dataset_name)}
        self._label_space = LabelSpace.from_metadata(MetadataCatalog.get(dataset_name))
        self._distributed = distributed
        self._output_dir = None if output_dir is None else Path(output_dir)
        self._write_predictions = write_predictions
        self._pq_dagger = pq_dagger
        self._max_pixels = max_pixels
        self._boundary = boundary
        self.reset()

    def reset(self) -> None:
        """Forgets the images seen."""
        self._sums: dict[Any, tuple[np.ndarray, np.ndarray]] = {}  # image id -> indices and values of its state
        self._submission = None
        if self._write_predictions:
            self._submission = SubmissionWriter(self._output_dir / "panoptic_predictions", self._label_space)
            self._png_names = _png_names(self._images)

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Scores a batch.

        Args:
            inputs: dicts with the image_id of images of the dataset.
            outputs: dicts with panoptic_seg = (map (H, W) integer tensor or array, segments_info), at the resolution of
                the ground truth. Items of segments_info have id, isthing, category_id (contiguous thing or stuff id).

        Raises:
            UserError: an image is not in the dataset.
            DatasetError: the ground-truth PNG is missing or unreadable.
            ValueError: an output violates the format above; the message names the image.
        """
        for image, output in zip(inputs, outputs, strict=True):
            record = self._images.get(image["image_id"])
            if record is None:
                raise UserError(f"image id {image['image_id']!r} is not in dataset {self._dataset_name!r}")
            name = record["file_name"]
            if record["image_id"] in self._sums:
                logger.warning("%s was evaluated before: an image counts once", name)
                continue
            pred_map, segments_info = panoptic_prediction(output, self._label_space, name)
            if self._submission is not None:
                self._submission.write(record, self._png_names[record["image_id"]], pred_map, segments_info)
            gt_map = read_id_map(record["pan_seg_file_name"], max_pixels=self._max_pixels)
            scores = self._empty_scores()
            try:
                image_counts = count_image(
                    pred_map,
                    {int(s["id"]): self._class_index(s) for s in segments_info},
                    gt_map,
                    [(s["id"], self._class_index(s), s.get("iscrowd") == 1) for s in record["segments_info"]],
                    num_classes=self._label_space.num_things + self._label_space.num_stuff,
                    boundary=self._boundary,
                    name=name,
                )
            except ValueError:
                load_annotation(
                    record, max_pixels=self._max_pixels
                )  # if the ground truth is invalid, its own error is more specific
                raise
            scores.add(image_counts)
            state = scores.state().ravel()
            places = np.flatnonzero(state)
            self._sums[record["image_id"]] = places, state[places]

    def evaluate(self) -> OrderedDict:
        """Sums over the processes, logs and returns the results; all processes must call it.

        Returns:
            {"panoptic_seg": {name: float}}, empty except on rank 0. The metrics PQ, SQ, RQ, PQ_dagger and mIoU are
            x 100, and NaN if no class counts. TP, FP and FN are numbers of segments over all images and classes.
            PQ_small, PQ_medium and PQ_large are the PQ of the segments of a size (see `scores.SIZES`); boundary_PQ is
            present if it was requested. Each of these is also given with the suffixes _th (things) and _st (stuff).
            PQ-<class> is the PQ of each class, and images is the number of images seen.
        """
        if self._submission is not None:
            path = self._submission.finish(self._distributed)
            if path is not None:
                logger.info("Predictions written to %s and the folder next to it", path)
        total = self._total(first_of_each(self._sums) if self._distributed else list(self._sums))
        if total is None:
            return OrderedDict()
        qualities = {name: each.compute(self._pq_dagger) for name, each in total.quality.items()}
        quality = qualities["mask"]
        names = self._label_space.thing_classes + self._label_space.stuff_classes
        logger.info("%s: panoptic quality\n%s", self._dataset_name, quality_table(quality))
        logger.info("%s: per class\n%s", self._dataset_name, class_table(quality, names))
        num_images = len(self._images)
        if quality["images"] < num_images:
            logger.warning(
                "%d of the %d images of %s were evaluated", quality["images"], num_images, self._dataset_name
            )
        results = _results(quality, names)
        for part, measure in (("boundary", "boundary_PQ"), *((size, f"PQ_{size}") for size in SIZES)):
            if part in qualities:
                results |= {measure + suffix: 100 * qualities[part][group]["pq"] for group, suffix in _GROUPS.items()}
        if self._output_dir is not None:
            self._output_dir.mkdir(parents=True, exist_ok=True)
            per_class = dict(zip(names, quality["per_class"], strict=True))
            content = {"dataset": self._dataset_name, "pq_dagger": self._pq_dagger, **results, "per_class": per_class}
            write_json(self._output_dir / "panoptic_quality.json", without_nan(content))
        return OrderedDict(panoptic_seg=results)

    def _empty_scores(self) -> Scores:
        return Scores(self._label_space.num_things, self._label_space.num_stuff, boundary=self._boundary)

    def _total(self, image_ids: Sequence[Any]) -> Scores | None:
        """Sums the given images of this process, then all processes; returns None except on rank 0."""
        empty = self._empty_scores().state()
        state = empty.ravel()
        for image_id in image_ids:
            places, values = self._sums[image_id]
            state[places] += values
        states = comm.gather(state) if self._distributed else [state]
        if self._distributed and not comm.is_main_process():
            return None
        total = self._empty_scores()
        for state in states:
            total.merge(state.reshape(empty.shape))
        return total

    def _class_index(self, segment: Mapping[str, Any]) -> int:
        """Returns the class index (see `PanopticQuality`) of a checked item of segments_info."""
        category_id = int(segment["category_id"])
        return category_id if segment["isthing"] else self._label_space.num_things + category_id


def quality_table(quality: Mapping[str, Any]) -> str:
    """Returns the summary of `PanopticQuality.compute` as a Markdown table, metrics x 100."""
    rows = []
    for group in _GROUPS:
        values = [100 * quality[group][key] for key in ("pq", "sq", "rq", "pq_dagger", "miou")]
        rows.append([group, *values, *(quality[group][key] for key in ("n", "tp", "fp", "fn"))])
    header = [f"{quality['images']} images", "PQ", "SQ", "RQ", "PQ†", "mIoU", "classes", "TP", "FP", "FN"]
    return markdown_table(rows, header, float_format=".3f")


def class_table(quality: Mapping[str, Any], names: Sequence[str]) -> str:
    """Returns the classes of `PanopticQuality.compute` that occur as a Markdown table, metrics x 100."""
    rows = []
    for name, row in zip(names, quality["per_class"], strict=True):
        if row["tp"] + row["fp"] + row["fn"] > 0:
            values = [100 * row[key] for key in ("pq", "sq", "rq", "pq_dagger", "iou")]
            rows.append([name, *values, row["tp"], row["fp"], row["fn"]])
    header = ["class", "PQ", "SQ", "RQ", "PQ†", "IoU", "TP", "FP", "FN"]
    return markdown_table(rows, header)


def _results(quality: Mapping[str, Any], names: Sequence[str]) -> dict[str, float]:
    results = {}
    for group, suffix in _GROUPS.items():
        for key, label in (("pq", "PQ"), ("sq", "SQ"), ("rq", "RQ"), ("pq_dagger", "PQ_dagger"), ("miou", "mIoU")):
            results[label + suffix] = 100 * quality[group][key]
        for key in ("tp", "fp", "fn"):
            results[key.upper() + suffix] = float(quality[group][key])
    results["images"] = float(quality["images"])
    results.update({f"PQ-{name}": 100 * row["pq"] for name, row in zip(names, quality["per_class"], strict=True)})
    return results


def _png_names(images: Mapping[Any, Mapping[str, Any]]) -> dict[Any, str]:
    """Returns the PNG name per image id: the image's name, or the id if images in different folders share a name."""
    names = {i: os.path.splitext(os.path.basename(record["file_name"]))[0] for i, record in images.items()}
    if len(set(names.values())) < len(names):
        used: set[str] = set()
        names = {i: unused_name(safe_name(str(i)), used) for i in images}
    return {i: f"{name}.png" for i, name in names.items()}

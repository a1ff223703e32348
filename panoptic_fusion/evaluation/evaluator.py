"""Evaluator of panoptic quality: a detectron2 `DatasetEvaluator` around `Scores`."""

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
from ..files import safe_name, unused_name, without_nan, write_json, write_text
from .matching import count_image
from .panoptic_quality import check_pq_dagger, class_index
from .prediction import panoptic_prediction
from .records import record_of, warn_of_missing
from .repeated_images import first_of_each
from .results import flat_results
from .scores import (
    Scores,
    classes_table,
    groups_table,
    image_row,
    scores_table,
    sizes_table,
    summarize,
    write_rows,
)
from .submission import SubmissionWriter

logger = logging.getLogger(__name__)


class PanopticQualityEvaluator(DatasetEvaluator):
    """Evaluator of PQ, PQ-dagger, boundary PQ, PQ by segment size and mIoU of `panoptic_seg` on a registered dataset.

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
            output_dir: folder for panoptic_quality.json and panoptic_quality.md, the results with the metrics of each
                class and segment size, and panoptic_quality.csv, the metrics of each image. None writes nothing.
            write_predictions: whether to also write the predictions for submission servers: the PNGs to
                `output_dir`/panoptic_predictions/, and panoptic_predictions.json next to that folder.
            pq_dagger: "matched" or "ground_truth", see `PanopticQuality.compute`.
            max_pixels: largest number of pixels of a ground-truth PNG, see INPUT.MAX_PIXELS.
            boundary: whether to also compute boundary PQ, see TEST.BOUNDARY_PQ.

        Raises:
            UserError: `write_predictions` is set without `output_dir`, or `pq_dagger` is unknown.
            DatasetError: the dataset's JSON is invalid.
        """
        if write_predictions and output_dir is None:
            raise UserError("write_predictions needs an output_dir")
        check_pq_dagger(pq_dagger)
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
        # image id -> indices and values of the flattened state of its scores, and its row of the CSV
        self._images_seen: dict[Any, tuple[np.ndarray, np.ndarray, dict[str, Any]]] = {}
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
        num_things = self._label_space.num_things
        for image, output in zip(inputs, outputs, strict=True):
            record = record_of(image, self._images, self._dataset_name)
            name = record["file_name"]
            if record["image_id"] in self._images_seen:
                logger.warning("%s was evaluated before: an image counts once", name)
                continue
            pred_map, segments_info = panoptic_prediction(output, self._label_space, name)
            if self._submission is not None:
                self._submission.write(record, self._png_names[record["image_id"]], pred_map, segments_info)
            gt_map = read_id_map(record["pan_seg_file_name"], max_pixels=self._max_pixels)
            try:
                counts = count_image(
                    pred_map,
                    {s["id"]: class_index(s, num_things) for s in segments_info},
                    gt_map,
                    [(s["id"], class_index(s, num_things), s.get("iscrowd") == 1) for s in record["segments_info"]],
                    num_classes=num_things + self._label_space.num_stuff,
                    boundary=self._boundary,
                    name=name,
                )
            except ValueError:
                load_annotation(
                    record, max_pixels=self._max_pixels
                )  # if the ground truth is invalid, its own error is more specific
                raise
            scores = self._no_scores()
            scores.add(counts)
            state = scores.state().reshape(-1)
            places = np.flatnonzero(state)
            row = {"image_id": record["image_id"], "file_name": name, **image_row(scores)}
            self._images_seen[record["image_id"]] = places, state[places], row

    def evaluate(self) -> OrderedDict:
        """Sums over the processes, logs and returns the results; all processes must call it.

        Returns:
            {"panoptic_seg": {name: float}}, empty except on rank 0; see `flat_results` for the names.
        """
        if self._submission is not None:
            path = self._submission.finish(self._distributed)
            if path is not None:
                logger.info("Predictions written to %s and the folder next to it", path)
        total = self._total(first_of_each(self._images_seen) if self._distributed else list(self._images_seen))
        if total is None:
            return OrderedDict()
        scores, rows = total
        names = self._label_space.thing_classes + self._label_space.stuff_classes
        summary = {**summarize(scores, names, self._pq_dagger), "per_image": rows}
        logger.info("%s: panoptic quality\n%s", self._dataset_name, groups_table(summary))
        logger.info("%s: per segment size\n%s", self._dataset_name, sizes_table(summary))
        logger.info("%s: per class\n%s", self._dataset_name, classes_table(summary))
        warn_of_missing(summary["images"], len(self._images), self._dataset_name)
        results = flat_results(summary)
        if self._output_dir is not None:
            self._output_dir.mkdir(parents=True, exist_ok=True)
            more = {key: summary[key] for key in ("by_size", "per_class")}
            content = {"dataset": self._dataset_name, "pq_dagger": self._pq_dagger, **results, **more}
            write_json(self._output_dir / "panoptic_quality.json", without_nan(content))
            write_text(self._output_dir / "panoptic_quality.md", f"{scores_table(summary)}\n")
            write_rows(rows, self._output_dir / "panoptic_quality.csv")
        return OrderedDict(panoptic_seg=results)

    def _no_scores(self) -> Scores:
        return Scores(self._label_space.num_things, self._label_space.num_stuff, boundary=self._boundary)

    def _total(self, image_ids: Sequence[Any]) -> tuple[Scores, list[dict[str, Any]]] | None:
        """Sums the given images of this process, then all processes; returns None except on rank 0.

        Returns:
            The sums, and the rows of the images, in the order of the dataset.
        """
        total = self._no_scores()
        state = total.state()
        for image_id in image_ids:
            places, values, _ = self._images_seen[image_id]
            state.reshape(-1)[places] += values
        part = state, [self._images_seen[image_id][2] for image_id in image_ids]
        parts = comm.gather(part) if self._distributed else [part]
        if self._distributed and not comm.is_main_process():
            return None
        rows = {}
        for state, part_rows in parts:
            total.merge(state)
            rows.update({row["image_id"]: row for row in part_rows})
        return total, [rows[image_id] for image_id in self._images if image_id in rows]


def _png_names(images: Mapping[Any, Mapping[str, Any]]) -> dict[Any, str]:
    """Returns the PNG name per image id: the image's name, or the id if images in different folders share a name."""
    names = {i: os.path.splitext(os.path.basename(record["file_name"]))[0] for i, record in images.items()}
    if len(set(names.values())) < len(names):
        used: set[str] = set()
        names = {i: unused_name(safe_name(str(i)), used) for i in images}
    return {i: f"{name}.png" for i, name in names.items()}

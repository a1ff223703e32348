"""Evaluates box and mask AP of the instances with pycocotools on a dataset that has panoptic ground truth."""

import contextlib
import hashlib
import logging
import os
import uuid
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from detectron2.utils import comm
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..data import coco_panoptic
from ..data.image_header import MAX_PIXELS
from ..data.rle import encode_crop
from ..files import safe_name, write_atomically, write_json
from ..markdown import markdown_table
from ..modeling.fusion.mask_crops import MaskCrops
from ..other_packages import prints_to
from .records import output_of, record_of, warn_of_missing

logger = logging.getLogger(__name__)


class InstancesEvaluator(COCOEvaluator):
    """Evaluator of box and mask AP (detectron2's `COCOEvaluator`) on a dataset that has panoptic ground truth.

    The ground truth is the dataset's instances JSON or, without one, the things of the panoptic PNGs. pycocotools needs
    bbox, area, iscrowd and an id above 0 for every annotation, and lists of images and categories. An instances JSON
    may lack some of these. A complete JSON is therefore written to `output_dir`, with the dataset's own boxes and areas
    if it has them. It is rewritten whenever a file of the dataset, including a PNG, has changed.

    An AP is 0 if there is ground truth but nothing was found, and NaN if there is no ground truth. (detectron2 returns
    NaN, and no mask AP, if nothing was found in any image.) An image counts once, even if a sampler that pads the last
    batch repeats it in the same or another process. Only the images seen are scored, which may be a subset of the
    dataset. (detectron2 counts all others as images in which nothing was found.)
    """

    def __init__(self, dataset_name: str, output_dir: str, *, distributed: bool = True, max_pixels: int = MAX_PIXELS):
        """Initializes the evaluator.

        Args:
            dataset_name: name of a dataset with thing classes, registered by `panoptic_fusion.data.register_panoptic`.
            output_dir: folder for this JSON and for the results in COCO format.
            distributed: whether to collect from all processes, which must all create the evaluator.
            max_pixels: largest number of pixels of a PNG, see INPUT.MAX_PIXELS.
        """
        metadata = MetadataCatalog.get(dataset_name)
        json_file = _complete_json(dataset_name, output_dir, distributed, max_pixels)
        # COCOEvaluator reads its metadata from the catalog: add a temporary entry under a unique name.
        shadow = MetadataCatalog.get(f"{dataset_name}, instances {uuid.uuid4().hex}")
        classes = {key: metadata.get(key) for key in ("thing_classes", "thing_dataset_id_to_contiguous_id")}
        shadow.set(json_file=str(json_file), **classes)
        try:
            # The fast implementation requires detectron2's compiled extension.
            super().__init__(shadow.name, distributed=distributed, use_fast_impl=False)
        finally:
            MetadataCatalog.remove(shadow.name)
        self._dataset_name = dataset_name
        self._images = self._coco_api.imgs
        self._numbers = {image_id: number for number, image_id in enumerate(self._images)}
        self._coco_api = _with_new_image_ids(self._coco_api, self._numbers)
        self._folder = Path(output_dir)  # detectron2 would leave half a file on a full disk

    def evaluate(self, img_ids: Sequence | None = None) -> dict[str, Any]:
        """Returns the metrics of COCOEvaluator. Tables that COCO's tools print go to the log, not to the console."""
        with prints_to(logging.getLogger("detectron2.evaluation.coco_evaluation")):
            return super().evaluate(img_ids)

    def reset(self) -> None:
        """Forgets the images seen."""
        super().reset()
        self._seen = set()

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Adds a batch, as in COCOEvaluator; `instances` may have pred_mask_logits (R, M, M) instead of pred_masks.

        Masks from logits are encoded one at a time within their boxes, so no tensor of R x H x W is allocated.

        Raises:
            UserError: an image is not in the dataset.
            ValueError: `instances` is missing, has another size than the image, a class that does not exist, or a score
                or box that is not finite; the message names the image.
        """
        for image, output in zip(inputs, outputs, strict=True):
            record = record_of(image, self._images, self._dataset_name)
            image_id, name = record["id"], record["file_name"]
            if image_id in self._seen:
                continue
            instances = output_of(output, "instances", name).to(self._cpu_device)
            self._check(instances, record)
            self._seen.add(image_id)
            results = instances_to_coco_json(instances, image_id)
            if instances.has("pred_mask_logits"):
                for result, rle in zip(results, encoded_masks(instances), strict=True):
                    result["segmentation"] = rle
            self._predictions.append({"image_id": image_id, "instances": results})

    def _check(self, instances: Instances, record: Mapping[str, Any]) -> None:
        size, expected = tuple(instances.image_size), (record["height"], record["width"])
        if len(instances) and size != expected:
            raise ValueError(f"{record['file_name']}: the instances are for an image of size {size}, not {expected}")
        for values in (instances.scores, instances.pred_boxes.tensor):
            if not torch.isfinite(values).all():
                raise ValueError(f"{record['file_name']}: scores or boxes of the instances are not finite")
        num = len(self._metadata.thing_classes)
        for cls in instances.pred_classes.tolist():
            if not 0 <= cls < num:
                raise ValueError(f"{record['file_name']}: an instance is of thing class {cls}; there are {num}")

    def _tasks_from_predictions(self, predictions: Sequence[Mapping[str, Any]]) -> list[str]:
        return ["bbox", "segm"] if not predictions else super()._tasks_from_predictions(predictions)

    def _eval_predictions(self, predictions: Sequence[dict[str, Any]], img_ids: Sequence | None = None) -> None:
        first: dict[Any, dict[str, Any]] = {}  # first prediction per image, over all processes
        for prediction in predictions:
            first.setdefault(prediction["image_id"], prediction)
        warn_of_missing(len(first), len(self._images), self._dataset_name)
        self._write_predictions(list(first.values()))
        counted = [  # copies, because detectron2 changes the category ids in place, and `evaluate` may be called again
            {"instances": [{**x, "image_id": self._numbers[image_id]} for x in prediction["instances"]]}
            for image_id, prediction in first.items()
        ]
        self._scored = [self._numbers[image_id] for image_id in (first if img_ids is None else img_ids)]
        super()._eval_predictions(counted, self._scored)

    def _write_predictions(self, predictions: list[dict[str, Any]]) -> None:
        """Writes the two files of COCOEvaluator, before a failure of the evaluation can lose the predictions."""
        ids = {number: i for i, number in self._metadata.thing_dataset_id_to_contiguous_id.items()}
        results = [{**x, "category_id": ids[x["category_id"]]} for image in predictions for x in image["instances"]]
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._folder / "instances_predictions.pth", lambda file: torch.save(predictions, file))
        write_json(self._folder / "coco_instances_results.json", results)

    def _derive_coco_results(
        self, coco_eval: COCOeval | None, iou_type: str, class_names: Sequence[str] | None = None
    ) -> dict[str, float]:
        """Extends COCOEvaluator: class names may be any text, and `coco_eval` is None if nothing was found."""
        if coco_eval is None:
            coco_eval = _evaluate_nothing(self._coco_api, iou_type, self._scored)
        results = super()._derive_coco_results(coco_eval, iou_type)
        if class_names is None or len(class_names) <= 1:
            return results
        precisions = coco_eval.eval["precision"][:, :, :, 0, -1]  # (IoU, recall, class): all sizes, most detections
        averages = OrderedDict()
        for name, precision in zip(class_names, precisions.transpose(2, 0, 1), strict=True):
            known = precision[precision > -1]
            averages[name] = float(100 * known.mean()) if known.size else float("nan")
        table = markdown_table(list(averages.items()), ["class", "AP"], float_format=".3f")
        logger.info("Per-class %s AP:\n%s", iou_type, table)
        return {**results, **{f"AP-{name}": average for name, average in averages.items()}}


def encoded_masks(instances: Instances) -> list[dict[str, Any]]:
    """Returns the RLE of each mask of R instances with pred_mask_logits, at `instances.image_size`."""
    crops = MaskCrops.from_instances(instances)
    return [
        encode_crop(crops[row].numpy(), rows.start, columns.start, crops.size)
        for row, (rows, columns) in enumerate(crops.windows)
    ]


def _with_new_image_ids(ground_truth: COCO, numbers: Mapping[Any, int]) -> COCO:
    """Returns the ground truth with numbers as image ids, because COCO's tools sort the ids, which may be text."""
    content, numbered = ground_truth.dataset, COCO()
    images = [{**image, "id": numbers[image["id"]]} for image in content["images"]]
    annotations = [{**entry, "image_id": numbers[entry["image_id"]]} for entry in content["annotations"]]
    numbered.dataset = {**content, "images": images, "annotations": annotations}
    with contextlib.redirect_stdout(None):
        numbered.createIndex()
    return numbered


def _evaluate_nothing(ground_truth: COCO, iou_type: str, image_ids: Sequence) -> COCOeval:
    """Runs COCO's evaluation of images without any detections, which its `loadRes` rejects."""
    nothing = COCO()
    nothing.dataset = {**ground_truth.dataset, "annotations": []}
    nothing.createIndex()
    evaluation = COCOeval(ground_truth, nothing, iou_type)
    evaluation.params.imgIds = image_ids
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


def _complete_json(dataset_name: str, output_dir: str, distributed: bool, max_pixels: int) -> Path:
    """Writes and returns the JSON of `InstancesEvaluator`, from rank 0 and on machines that cannot see its folder."""
    path = Path(output_dir) / f"{safe_name(dataset_name)}_instances.json"
    if not distributed or comm.is_main_process():
        _write_unless_current(path, dataset_name, max_pixels)
    if distributed:
        comm.synchronize()
        _write_unless_current(path, dataset_name, max_pixels)
        comm.synchronize()
    return path


def _write_unless_current(path: Path, dataset_name: str, max_pixels: int) -> None:
    origin = _fingerprint(dataset_name)
    made_from = path.with_suffix(".source")
    if path.exists() and made_from.exists() and made_from.read_text() == origin:
        return
    logger.info("Writing the instances of %s for box and mask AP ...", dataset_name)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{comm.get_rank()}.partial")
    coco_panoptic.derive_instances_json(dataset_name, str(partial), max_pixels)
    os.replace(partial, path)
    write_atomically(made_from, lambda file: file.write(origin.encode()))


def _fingerprint(dataset_name: str) -> str:
    """Returns a hash that changes when a source file of the instances changes: the JSON files and the PNGs.

    It covers the path, the size and two times per file: the last change of the content, which tools can set, and the
    last change of the file system entry, which they cannot.
    """
    files = coco_panoptic.panoptic_files(dataset_name)
    paths = [file for file in (files.panoptic_json, files.instances_json) if file is not None]
    paths += [record["pan_seg_file_name"] for record in DatasetCatalog.get(dataset_name)]
    digest = hashlib.sha1()
    for path in paths:
        try:
            status = os.stat(path)
            state = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        except OSError:  # reading the file later gives a more specific error
            state = None
        digest.update(repr((os.path.abspath(path), state)).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()

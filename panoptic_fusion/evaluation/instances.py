"""Measures box and mask AP of the instances with detectron2's COCO evaluator."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from detectron2.utils import comm

from ..data import coco_panoptic
from ..data.rle import encode_crop
from ..files import write_atomically
from ..modeling.fusion.mask_crops import MaskCrops

logger = logging.getLogger(__name__)


class InstancesEvaluator(COCOEvaluator):
    """detectron2's `COCOEvaluator` (box and mask AP) on a data set that has panoptic ground truth.

    Its ground truth is the data set's instances json; without one, the things of the panoptic PNGs. COCO's tools need
    bbox, area, iscrowd and ids above 0 of every annotation, and lists of images and categories, of which an instances
    json may have less: so a json with all of it is written to `output_dir` (again when the jsons of the data set have
    changed), with the data set's own boxes and areas where it has them.
    """

    def __init__(self, dataset_name: str, output_dir: str, *, distributed: bool = True):
        """
        Args:
            dataset_name: a data set of `panoptic_fusion.data.register_panoptic` with thing classes.
            output_dir: gets this json and the results in COCO format.
            distributed: collect from all processes, which must all make the evaluator.
        """
        metadata = MetadataCatalog.get(dataset_name)
        json_file = _complete_json(dataset_name, output_dir, distributed)
        # COCOEvaluator reads json_file from the metadata, where it cannot be changed again: one metadata for each json.
        shadow = MetadataCatalog.get(f"{dataset_name}, instances of {json_file}")
        classes = {key: metadata.get(key) for key in ("thing_classes", "thing_dataset_id_to_contiguous_id")}
        shadow.set(json_file=str(json_file), **classes)
        # The fast implementation needs detectron2's compiled code.
        super().__init__(shadow.name, distributed=distributed, output_dir=output_dir, use_fast_impl=False)

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """As COCOEvaluator's, also for `instances` that have pred_mask_logits (R, M, M) in place of pred_masks: their
        masks are encoded one by one on their boxes, so there is no tensor R x H x W."""
        for image, output in zip(inputs, outputs, strict=True):
            instances = output["instances"].to(self._cpu_device)
            results = instances_to_coco_json(instances, image["image_id"])
            if instances.has("pred_mask_logits"):
                for result, rle in zip(results, encoded_masks(instances), strict=True):
                    result["segmentation"] = rle
            self._predictions.append({"image_id": image["image_id"], "instances": results})


def encoded_masks(instances: Instances) -> list[dict[str, Any]]:
    """The RLE of each mask of R instances with pred_mask_logits, at `instances.image_size`."""
    crops = MaskCrops.from_instances(instances)
    return [
        encode_crop(crops[row].numpy(), rows.start, columns.start, crops.size)
        for row, (rows, columns) in enumerate(crops.windows)
    ]


def _complete_json(dataset_name: str, output_dir: str, distributed: bool) -> Path:
    """The json of `InstancesEvaluator`; written by the main process, and on machines that do not see its folder too."""
    path = Path(output_dir) / f"{dataset_name.replace('/', '_')}_instances.json"
    if not distributed or comm.is_main_process():
        _write_unless_current(path, dataset_name)
    if distributed:
        comm.synchronize()
        _write_unless_current(path, dataset_name)
        comm.synchronize()
    return path


def _write_unless_current(path: Path, dataset_name: str) -> None:
    files = coco_panoptic.panoptic_files(dataset_name)
    sources = [os.path.abspath(file) for file in (files.panoptic_json, files.instances_json) if file is not None]
    origin = "\n".join(f"{file} {os.stat(file).st_mtime_ns}" for file in sources)
    made_from = path.with_suffix(".source")
    if path.exists() and made_from.exists() and made_from.read_text() == origin:
        return
    logger.info("Writing the instances of %s for box and mask AP ...", dataset_name)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{comm.get_rank()}.partial")
    coco_panoptic.derive_instances_json(dataset_name, str(partial))
    os.replace(partial, path)
    write_atomically(made_from, lambda file: file.write(origin.encode()))

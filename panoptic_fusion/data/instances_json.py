"""Writes the things of a dataset as a COCO instances JSON, the ground truth of detectron2's COCOEvaluator."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pycocotools import mask as mask_api
from tqdm import tqdm

from ..files import write_json
from .annotation import label_extents, load_annotation
from .image_header import MAX_PIXELS
from .label_space import LabelSpace
from .rle import encode_crop


def write_instances_json(
    dicts: Sequence[Mapping[str, Any]],
    label_space: LabelSpace,
    image_root: str,
    path: str,
    max_pixels: int = MAX_PIXELS,
) -> None:
    """Writes the things of dataset dicts (from `load_panoptic`), crowds included, to `path`.

    The masks, with their bbox and area, come from the dicts' `annotations` if present, else from the PNGs.
    Every annotation has an RLE, bbox (XYWH), area (pixels), iscrowd, and an id, counted from 1; category ids are the
    same as in the dataset's JSON. The file appears under its name only when it is complete. Raises DatasetError if the
    dataset is invalid, including PNGs with more than `max_pixels` pixels.
    """
    images, annotations = [], []
    for record in tqdm(dicts, desc="instances json", unit="image", disable=not sys.stderr.isatty()):
        file_name = os.path.relpath(record["file_name"], image_root)
        size = {"height": record["height"], "width": record["width"]}
        images.append({"id": record["image_id"], "file_name": file_name, **size})
        for thing in _things(record, max_pixels):
            rle = thing["segmentation"]
            counts = rle["counts"] if isinstance(rle["counts"], str) else rle["counts"].decode("ascii")
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": record["image_id"],
                    "category_id": label_space.thing_ids[thing["category_id"]],
                    "iscrowd": thing["iscrowd"],
                    "area": thing["area"] if "area" in thing else int(mask_api.area(rle)),
                    "bbox": thing["bbox"] if "bbox" in thing else mask_api.toBbox(rle).tolist(),
                    "segmentation": {"size": rle["size"], "counts": counts},
                }
            )
    categories = [{"id": i, "name": n} for i, n in zip(label_space.thing_ids, label_space.thing_classes, strict=True)]
    content = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    write_json(path, content)


def _things(record: Mapping[str, Any], max_pixels: int) -> Iterator[dict[str, Any]]:
    """Yields each thing of a dataset dict, crowds included.

    Each has a contiguous category_id, iscrowd, segmentation (RLE), and bbox and area if its `annotations` have them.
    """
    if "annotations" in record:
        for annotation in record["annotations"]:
            rle = annotation["segmentation"]
            if isinstance(rle, list):
                rle = mask_api.merge(mask_api.frPyObjects(rle, record["height"], record["width"]))
            yield {**annotation, "segmentation": rle}
        return
    labels = load_annotation(record, max_pixels=max_pixels)
    boxes, _ = label_extents(labels, len(record["segments_info"]))
    for label, (segment, box) in enumerate(zip(record["segments_info"], boxes.tolist(), strict=True), start=1):
        if segment["isthing"]:
            x0, y0, x1, y1 = box
            rle = encode_crop(labels[y0:y1, x0:x1] == label, y0, x0, labels.shape)
            yield {"category_id": segment["category_id"], "iscrowd": segment["iscrowd"], "segmentation": rle}

"""Selects the images of DATASETS.TRAIN and their sampling frequency, with detectron2's filter and samplers.

detectron2 reads `annotations`, which exist only with an instances JSON; otherwise the things in the panoptic PNG are
used.
"""

import logging
from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.data.build import filter_images_with_only_crowd_annotations, print_instances_class_histogram
from detectron2.data.samplers import RepeatFactorTrainingSampler

from ..errors import ConfigError
from .coco_panoptic import get_label_space, unannotated_images

logger = logging.getLogger(__name__)


def training_data(cfg: CfgNode) -> tuple[list[dict[str, Any]], RepeatFactorTrainingSampler | None]:
    """Returns the `load_panoptic` dicts of all datasets of DATASETS.TRAIN, and the sampler of their indices.

    Some, all or none of the datasets may have an instances JSON. DATALOADER.FILTER_EMPTY_ANNOTATIONS leaves out images
    without a non-crowd thing. With DATASETS.UNANNOTATED "negatives", images that the JSON files list without an
    annotation are added as images without things; their pixels are void for the semantic loss. The sampler is None if
    detectron2's `build_detection_train_loader` should build the sampler of DATALOADER.SAMPLER_TRAIN. Only a
    RepeatFactorTrainingSampler is built by this function, with a seed drawn as in TrainingSampler (detectron2 passes
    SEED itself, so a resumed run would repeat its order). In a distributed job, all processes must call this.

    Raises:
        ConfigError: if the filter leaves no image, or all pixels of all images are void.
    """
    loader = cfg.DATALOADER
    records = [record for name in cfg.DATASETS.TRAIN for record in DatasetCatalog.get(name)]
    views = [{"annotations": things(record), "record": record} for record in records]
    if loader.FILTER_EMPTY_ANNOTATIONS:
        views = filter_images_with_only_crowd_annotations(views)
    if not views:
        raise ConfigError("DATALOADER.FILTER_EMPTY_ANNOTATIONS True leaves no image of DATASETS.TRAIN: set it to False")
    if not any(view["record"]["segments_info"] for view in views):
        names = ", ".join(cfg.DATASETS.TRAIN)
        raise ConfigError(f"DATASETS.TRAIN ({names}): no image has a segment, so there is nothing to learn")
    if cfg.DATASETS.UNANNOTATED == "negatives":
        negatives = [record for name in cfg.DATASETS.TRAIN for record in unannotated_images(name)]
        views += [{"annotations": [], "record": record} for record in negatives]
    thing_classes = get_label_space(cfg.DATASETS.TRAIN[0]).thing_classes
    if thing_classes:
        print_instances_class_histogram(views, thing_classes)
    logger.info("%d training images, %d of them with things", len(views), sum(bool(v["annotations"]) for v in views))
    sampler = None
    if loader.SAMPLER_TRAIN == "RepeatFactorTrainingSampler":
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            views, loader.REPEAT_THRESHOLD, sqrt=loader.REPEAT_SQRT
        )
        sampler = RepeatFactorTrainingSampler(factors)
    return [view["record"] for view in views], sampler


def things(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Returns the things of a `load_panoptic` dict, crowds included, with `category_id` and `iscrowd`."""
    if "annotations" in record:
        return record["annotations"]
    return [segment for segment in record["segments_info"] if segment["isthing"]]

"""The dataset mapper: converts a dataset dict to network input (and ground truth), with detectron2's augmentations."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, overload

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Boxes, Instances

from ..errors import ConfigError
from .annotation import bit_masks, decode_segmentation, label_extents, load_annotation, semantic_map
from .coco_panoptic import get_label_space
from .dataset_errors import DatasetError, Report, raise_error
from .image_file import decode_image
from .image_header import MAX_PIXELS
from .label_space import LabelSpace, check_ontology

DARK = 16  # of 256: 12-bit data stored in 16 bits without scaling stays below this value


class PanopticDatasetMapper:
    """Mapper from one dict of `load_panoptic` to the input of PanopticRCNN.

    Returns a dict with `image` (3, h, w) uint8, `height` and `width` (of the original image, not of `image`),
    `image_id`, `file_name`, and in training
    `sem_seg` (h, w) int64: channels of the ontology, 255 where ignored; crowds keep the channel of their class;
    `instances`: Instances with `gt_boxes`, `gt_classes` (contiguous thing ids), and `gt_masks` (BitMasks) of the
    non-crowd things that still have a pixel after augmentation. They come from the dict's `annotations` (from an
    instances JSON, whose masks may overlap) if present, else from the PNG.
    Labels are resampled as in detectron2 (nearest); boxes are computed from the resampled masks.

    Invalid data raises the same DatasetError that `panoptic-fusion check` reports. Areas and boxes in the JSON are not
    compared, because training does not use them.
    """

    @configurable
    def __init__(
        self,
        is_train: bool = True,
        *,
        augmentations: Sequence[T.Augmentation | T.Transform],
        image_format: str,
        label_space: LabelSpace | None = None,
        ontology: str = "full",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        """Initializes the mapper.

        Args:
            image_format: "BGR" or "RGB".
            label_space, ontology: needed in training only.
            max_pixels: images and PNGs with more pixels are rejected.
        """
        if is_train and label_space is None:
            raise ConfigError("PanopticDatasetMapper needs a label space for training")
        check_ontology(ontology)
        if label_space is not None:
            label_space.num_channels(ontology)  # rejects too many classes for the ontology before anything is read
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.label_space = label_space
        self.ontology = ontology
        self.max_pixels = max_pixels

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Returns the arguments of `__init__` for a config."""
        return {
            "is_train": is_train,
            "augmentations": build_augmentations(cfg, is_train),
            "image_format": cfg.INPUT.FORMAT,
            "label_space": common_label_space(cfg.DATASETS.TRAIN) if is_train else None,
            "ontology": cfg.MODEL.SEM_SEG_HEAD.ONTOLOGY,
            "max_pixels": cfg.INPUT.MAX_PIXELS,
        }

    def __call__(self, dataset_dict: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the network input (and ground truth) of a dataset dict; see the class."""
        record = copy.copy(dict(dataset_dict))
        annotations = record.pop("annotations", None)
        image = read_image(record, self.image_format, max_pixels=self.max_pixels)
        aug_input = T.AugInput(image)
        transforms = self.augmentations(aug_input)
        record["image"] = torch.from_numpy(aug_input.image.transpose(2, 0, 1).copy())
        if not self.is_train:
            return record
        segments_info = record.pop("segments_info")
        labels = load_annotation({**record, "segments_info": segments_info}, max_pixels=self.max_pixels)
        labels = transform_labels(labels, transforms)
        sem_seg = semantic_map(labels, segments_info, self.label_space, self.ontology)
        record["sem_seg"] = torch.from_numpy(sem_seg.astype(np.int64, order="C"))
        if annotations is None:
            record["instances"] = instances_of_labels(labels, segments_info)
        else:
            size = (record["height"], record["width"])
            record["instances"] = instances_of_annotations(annotations, size, transforms, labels.shape)
        return record


def build_augmentations(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """Builds the augmentations of INPUT.*: resize (keeping the aspect ratio), in training optionally crop and flip.

    With INPUT.SCALE_JITTER = [low, high], the short side is drawn from low..high times MIN_SIZE_TRAIN[0], with
    MAX_SIZE_TRAIN as the limit of the long side. Without it, MIN_SIZE_TRAIN and MIN_SIZE_TRAIN_SAMPLING are used as in
    detectron2. The crop is INPUT.CROP. Unlike in detectron2's mapper, it comes after the resize, so that an absolute
    crop size bounds the network's input size. Raises ConfigError unless SCALE_JITTER is two factors, 0 < low <= high.
    """
    if not is_train and cfg.TEST.AUG.ENABLED:
        return []  # the network resizes the image itself, once per view
    if not is_train:
        return [T.ResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST] * 2, cfg.INPUT.MAX_SIZE_TEST)]  # draws no random number
    sizes, sampling = cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
    jitter = list(cfg.INPUT.SCALE_JITTER)
    if jitter:
        if len(jitter) != 2 or not 0 < jitter[0] <= jitter[1]:
            raise ConfigError(f"INPUT.SCALE_JITTER must be two factors [low, high], 0 < low <= high, not {jitter}")
        sizes, sampling = tuple(max(1, round(factor * sizes[0])) for factor in jitter), "range"
    augmentations: list[T.Augmentation] = [T.ResizeShortestEdge(sizes, cfg.INPUT.MAX_SIZE_TRAIN, sampling)]
    if cfg.INPUT.CROP.ENABLED:
        augmentations.append(T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
    flip = cfg.INPUT.RANDOM_FLIP
    if flip not in ("none", "horizontal", "vertical"):
        raise ConfigError(f"INPUT.RANDOM_FLIP must be none, horizontal or vertical, not {flip!r}")
    if flip != "none":
        augmentations.append(T.RandomFlip(horizontal=flip == "horizontal", vertical=flip == "vertical"))
    return augmentations


def common_label_space(names: Sequence[str]) -> LabelSpace:
    """Returns the label space of DATASETS.TRAIN; raises ConfigError if there is none or if the datasets differ."""
    if not names:
        raise ConfigError("DATASETS.TRAIN is empty: name at least one registered dataset")
    label_space = get_label_space(names[0])
    for name in names[1:]:
        if not get_label_space(name).same_classes(label_space):
            raise ConfigError(f"the datasets {names[0]!r} and {name!r} of DATASETS.TRAIN have different categories")
    return label_space


@overload
def read_image(record: Mapping[str, Any], image_format: str, *, max_pixels: int = ...) -> np.ndarray: ...


@overload
def read_image(
    record: Mapping[str, Any], image_format: str, report: Report, max_pixels: int = ...
) -> np.ndarray | None: ...


def read_image(
    record: Mapping[str, Any], image_format: str, report: Report = raise_error, max_pixels: int = MAX_PIXELS
) -> np.ndarray | None:
    """Reads the image of a dataset dict by the rules of `image_file`.

    Args:
        record: dict with `file_name`, `height` and `width`.
        image_format: "BGR" or "RGB".
        report: called with each problem.
        max_pixels: maximum number of pixels to decode.

    Returns:
        (height, width, 3) uint8; None if a reported problem prevents reading the image.
    """
    file, size = record["file_name"], (record["height"], record["width"])
    try:
        image = decode_image(file, size, max_pixels)
    except DatasetError as fault:
        report(fault)
        return None
    height, width = image.pixels.shape[:2]
    if (height, width) != size:
        text = f"the image is {width}x{height}; according to the JSON, {record['width']}x{record['height']}"
        report(DatasetError(text, file, "wrong image size"))
    elif not image.upright:
        text = (
            f"EXIF orientation {image.orientation} is ignored: by their size, the labels lie in the stored orientation"
        )
        report(DatasetError(text, file, "stored orientation"))
    elif image.orientation != 1 and (image.orientation < 5 or height == width):
        text = f"EXIF orientation {image.orientation} is applied; make sure that the labels lie in that orientation"
        report(DatasetError(text, file, "unclear orientation"))
    if image.deep and image.pixels.max() < DARK:
        text = f"no 16-bit value reaches {256 * DARK}, so the image is nearly black; rescale it to the full 16 bits"
        report(DatasetError(text, file, "dark 16-bit image"))
    return image.pixels if image_format == "RGB" else image.pixels[:, :, ::-1]


def transform_labels(labels: np.ndarray, transforms: T.TransformList) -> np.ndarray:
    """Applies an augmentation to a label map (H, W); returns (h, w) uint8 or int32.

    detectron2 resizes uint8 maps and other maps by different rules. Only the rule for uint8 is aligned with the image,
    so labels above 255 are transformed as two byte planes.
    """
    low = transforms.apply_segmentation((labels & 255).astype(np.uint8))
    if labels.size == 0 or labels.max() < 256:
        return low
    high = transforms.apply_segmentation((labels >> 8).astype(np.uint8))
    return low.astype(np.int32) + 256 * high.astype(np.int32)


def instances_of_labels(labels: np.ndarray, segments_info: Sequence[Mapping[str, Any]]) -> Instances:
    """Returns the non-crowd things of a label map (h, w) that have at least one pixel, as training Instances."""
    boxes, areas = label_extents(labels, len(segments_info))
    wanted = [k for k, s in enumerate(segments_info) if s["isthing"] and not s["iscrowd"] and areas[k] > 0]
    masks = bit_masks(labels, [k + 1 for k in wanted], boxes[wanted])
    return _instances(masks, boxes[wanted], [segments_info[k]["category_id"] for k in wanted])


def instances_of_annotations(
    annotations: Sequence[Mapping[str, Any]],
    size: tuple[int, int],
    transforms: T.TransformList,
    transformed_size: tuple[int, int],
) -> Instances:
    """Returns the same from the `annotations` of an image of `size` (H, W); masks are transformed separately."""
    masks, boxes, classes = [], [], []
    for annotation in annotations:
        if annotation["iscrowd"]:
            continue
        mask = transforms.apply_segmentation(decode_segmentation(annotation["segmentation"], *size))
        mask = np.ascontiguousarray(mask)
        x, y, width, height = cv2.boundingRect(mask)
        if width:
            masks.append(mask.view(bool))
            boxes.append((x, y, x + width, y + height))
            classes.append(annotation["category_id"])
    stacked = np.stack(masks) if masks else np.zeros((0, *transformed_size), dtype=bool)
    return _instances(stacked, np.array(boxes, dtype=np.int64).reshape(-1, 4), classes)


def _instances(masks: np.ndarray, boxes: np.ndarray, classes: Sequence[int]) -> Instances:
    """Builds Instances from masks (M, h, w) bool, boxes (M, 4) as x0, y0, x1, y1, and M contiguous thing ids."""
    instances = Instances(masks.shape[1:])
    instances.gt_boxes = Boxes(torch.from_numpy(boxes.astype(np.float32)))
    instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
    instances.gt_masks = BitMasks(torch.from_numpy(masks))
    return instances

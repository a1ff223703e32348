"""Reads the output files of other models: COCO result JSON files, PNGs of labels and arrays of logits.

Shapes: R instances, C semantic channels, H x W pixels of the image.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..data.annotation import compress_segmentation, decode_segmentation
from ..data.coco_json import is_number, load_json, result_fault
from ..data.importers.encodings import decode_valid_rle
from ..data.importers.pixels import read_map
from ..data.label_space import LabelSpace
from ..errors import UserError, one_line
from ..modeling.fusion.class_numbers import ClassNumbers
from ..modeling.fusion.cropped_masks import CroppedMasks
from ..modeling.fusion.functional import ImageInputs, read_inputs

NO_CLASS = -1  # label of pixels without a class


@dataclass(frozen=True)
class ImageOutputs:
    """Encoded predictions of two models for one image.

    Attributes:
        image: entry of the images JSON: id, file_name, height, width.
        instances: entries of the instance model's result JSON, in its order.
        semantic: entries of the semantic model's result JSON, in its order; or the path of a PNG or .npy file.
        png_name: name of the output PNG.
    """

    image: Mapping[str, Any]
    instances: Sequence[Any]
    semantic: Sequence[Any] | str
    png_name: str


@dataclass(frozen=True)
class DecodedOutputs:
    """Decoded predictions of two models for one image, in the contiguous numbers of a label space.

    Attributes:
        sem_seg: (H, W) int64 semantic channels, S + T for pixels without a class; or (C, h, w) float32 logits, stuff
            first.
        masks: masks of R instances.
        scores: (R,) float64.
        classes: (R,) int64 thing classes, 0..T-1.
        ranking: (R,) float64 ranking scores, or None if an instance has none.
    """

    sem_seg: np.ndarray
    masks: CroppedMasks
    scores: np.ndarray
    classes: np.ndarray
    ranking: np.ndarray | None

    def inputs(self, space: LabelSpace, *, ranked: bool) -> ImageInputs:
        """Returns the inputs of a fusion rule, with ranking scores if `ranked`.

        Raises:
            UserError: see `panoptic_fusion.fuse`.
        """
        return read_inputs(
            self.sem_seg,
            self.masks,
            self.scores,
            self.classes,
            stuff_classes=space.num_stuff,
            thing_classes=space.num_things,
            size=self.masks.shape[1:],
            ranking=self.ranking if ranked else None,
        )


def decode_outputs(
    outputs: ImageOutputs, space: LabelSpace, numbers: Sequence[str] = ("score",)
) -> tuple[DecodedOutputs, list[str]]:
    """Decodes the predictions for one image; see `decode_instances` and `decode_semantic`.

    Returns:
        The predictions, and the problems of the entries that are left out.

    Raises:
        UserError: the semantic file cannot be used.
    """
    masks, entries, problems = decode_instances(outputs, space, numbers)
    sem_seg, lost = decode_semantic(outputs, space)
    if sem_seg.ndim == 2:
        names = ClassNumbers.of(space.stuff_ids, space.thing_ids)
        sem_seg = names.label_channels(torch.from_numpy(sem_seg)).numpy()
    things = {category_id: number for number, category_id in enumerate(space.thing_ids)}
    ranking = [entry.get("ranking") for entry in entries]
    decoded = DecodedOutputs(
        sem_seg,
        masks,
        np.array([entry["score"] for entry in entries], np.float64),
        np.array([things[entry["category_id"]] for entry in entries], np.int64),
        np.array(ranking, np.float64) if all(map(is_number, ranking)) else None,
    )
    return decoded, problems + lost


def read_results(path: str | os.PathLike, image_ids: set) -> tuple[dict[Any, list], list[str]]:
    """Reads a COCO result JSON, a list of entries, and groups it by image.

    Args:
        path: path of the JSON.
        image_ids: ids of the listed images.

    Returns:
        {image id: its entries in the order of the file}, and the problems of entries whose image is not listed.

    Raises:
        UserError: the file cannot be read or is not a list.
    """
    entries = load_json(os.fspath(path))
    if not isinstance(entries, list):
        raise UserError(f"{path}: not a COCO result JSON: the top level must be a list of entries with image_id")
    found: dict[Any, list] = {}
    lost = []
    for index, entry in enumerate(entries):
        image_id = entry.get("image_id") if isinstance(entry, dict) else None
        if isinstance(image_id, (int, str)) and image_id in image_ids:
            found.setdefault(image_id, []).append(entry)
        else:
            lost.append(f"entry {index}, image_id {image_id!r}")
    problems = (
        [f"{path}: {len(lost)} entries are for images that are not listed (the first: {lost[0]})"] if lost else []
    )
    return found, problems


def decode_instances(
    outputs: ImageOutputs, space: LabelSpace, numbers: Sequence[str]
) -> tuple[CroppedMasks, list[dict[str, Any]], list[str]]:
    """Decodes the instances of an image.

    Args:
        outputs: encoded predictions for the image.
        space: label space of the dataset.
        numbers: keys whose values must be numbers, such as "score".

    Returns:
        Masks of R instances, their entries, and the problems of the entries that are left out.
    """
    height, width = outputs.image["height"], outputs.image["width"]
    crops, entries, problems = [], [], []
    for index, entry in enumerate(outputs.instances):
        fault = result_fault(entry, outputs.image, space.thing_ids, numbers)
        if fault:
            problems.append(f"{outputs.image['file_name']}: instance {index} {fault}; it is left out")
            continue
        crops.append(decode_valid_rle(compress_segmentation(entry["segmentation"], height, width)))
        entries.append(entry)
    return CroppedMasks.of_crops(crops, (height, width)), entries, problems


def decode_semantic(outputs: ImageOutputs, space: LabelSpace) -> tuple[np.ndarray, list[str]]:
    """Decodes the semantic segmentation of an image.

    - Entries of a result JSON: where masks overlap, stuff takes precedence over things, and earlier entries over later
      ones.
    - PNG: gray or palette values are category ids.
    - .npy: (C, h, w) float logits. C is the number of all categories or of stuff categories. Channels are in
      ascending order of the category ids.

    Returns:
        (H, W) int64 category ids, `NO_CLASS` for pixels without a class; or (C, h, w) float32 logits, stuff first. And
        the problems of the entries that are left out.

    Raises:
        UserError: the file cannot be used.
    """
    height, width = outputs.image["height"], outputs.image["width"]
    if isinstance(outputs.semantic, str):
        if outputs.semantic.endswith(".npy"):
            return read_logits(outputs.semantic, space), []
        labels = read_map(outputs.semantic)
        if labels.shape != (height, width):
            raise UserError(f"{outputs.semantic}: needs one gray value per pixel of the {width}x{height} image")
        return labels.astype(np.int64), []
    valid, problems = [], []
    for index, entry in enumerate(outputs.semantic):
        fault = result_fault(entry, outputs.image, (*space.stuff_ids, *space.thing_ids))
        if fault:
            problems.append(f"{outputs.image['file_name']}: semantic entry {index} {fault}; it is left out")
        else:
            valid.append(entry)
    labels = np.full((height, width), NO_CLASS)
    for entry in sorted(valid, key=lambda entry: entry["category_id"] in space.thing_ids):
        mask = decode_segmentation(entry["segmentation"], height, width).astype(bool)
        labels[mask & (labels == NO_CLASS)] = entry["category_id"]
    return labels, problems


def read_logits(path: str, space: LabelSpace) -> np.ndarray:
    """Reads the logits of an .npy file, see `decode_semantic`."""
    try:
        logits = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path}: the file is missing") from None
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: not a readable .npy file ({one_line(error)})") from None
    ids = sorted((*space.stuff_ids, *space.thing_ids))
    counts = (len(ids), space.num_stuff)
    if logits.ndim != 3 or logits.dtype.kind != "f" or len(logits) not in counts or 0 in logits.shape:
        raise UserError(
            f"{path}: has the shape {logits.shape} and dtype {logits.dtype}, but needs float logits (C, h, w) of C = "
            f"{counts[0]} categories or {counts[1]} stuff categories"
        )
    if len(logits) == len(ids):
        logits = logits[[ids.index(i) for i in (*space.stuff_ids, *space.thing_ids)]]
    return logits.astype(np.float32)

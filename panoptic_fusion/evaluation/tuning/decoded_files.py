"""Caches the decoded predictions of files of any model, in one file per image, and scores settings on them.

Masks are stored as the pixels of their boxes and label maps as they are, both compressed. Logits stay in their .npy
file. A file is written atomically, so a killed run resumes with the next image.

Shapes: R is the number of instances, H x W the size of the image, P the number of pixels of all R boxes.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from panoptic_fusion.data.label_space import LabelSpace
from panoptic_fusion.errors import UserError, one_line
from panoptic_fusion.files import file_state, write_atomically
from panoptic_fusion.modeling.fusion import SemSegLogits
from panoptic_fusion.modeling.fusion.cropped_masks import CroppedMasks
from panoptic_fusion.modeling.fusion.finite import PanopticSeg
from panoptic_fusion.modeling.fusion.functional import ImageInputs
from panoptic_fusion.modeling.fusion.rules import RULES
from panoptic_fusion.processes import use_one_thread

from ..model_outputs import DecodedOutputs, ImageOutputs, decode_outputs, read_logits
from ..submission import coco_segments
from .file_rules import FileRule
from .heads import ARCHIVE_ERRORS
from .scoring import RememberedLogits, annotation_problem, score_settings
from .search import Setting


@dataclass(frozen=True)
class FileTask:
    """One image to decode and to score.

    Attributes:
        outputs: encoded predictions; None once they are cached.
        record: dataset dict of the ground truth.
        cached: path of the cached predictions.
    """

    outputs: ImageOutputs | None
    record: Mapping[str, Any]
    cached: str


@dataclass(frozen=True)
class DecodedImage:
    """What is known of an image once it is decoded.

    Attributes:
        failure: reason why it cannot be used, "" if it can.
        problems: problems of the entries that are left out.
        unfit: {rule that the image cannot feed: reason}.
        has_logits: whether it has semantic logits, not labels.
        has_things: whether its semantic labels or logits have thing classes.
    """

    failure: str = ""
    problems: Sequence[str] = ()
    unfit: Mapping[str, str] | None = None
    has_logits: bool = False
    has_things: bool = False


def cache_image(task: FileTask, *, space: LabelSpace, max_pixels: int) -> DecodedImage:
    """Decodes the predictions for one image, unless they are cached, and checks the ground truth.

    Args:
        task: image with its encoded predictions.
        space: label space of the predictions.
        max_pixels: largest number of pixels of the ground-truth PNG.

    Raises:
        DiskError: if the disk is full.
    """
    use_one_thread()
    outputs, record = task.outputs, task.record
    sizes = [(entry["height"], entry["width"]) for entry in (outputs.image, record)]
    if sizes[0] != sizes[1]:
        ours, theirs = (f"{width}x{height}" for height, width in sizes)
        return DecodedImage(f"{outputs.image['file_name']}: the image is {ours}, but {theirs} in the ground truth")
    failure = annotation_problem(record, max_pixels)
    if failure:
        return DecodedImage(failure)
    source = str(file_state(outputs.semantic)) if isinstance(outputs.semantic, str) else ""
    try:
        found = _read_about(task.cached)
    except ARCHIVE_ERRORS:
        found = {}
    if found.get("source") == source:
        return DecodedImage(**found["image"])
    try:
        decoded, problems = decode_outputs(outputs, space)
        image = describe(decoded, problems, outputs.image["file_name"], space)
    except UserError as error:
        return DecodedImage(f"{outputs.image['file_name']}: {one_line(error)}")
    save_decoded(task.cached, decoded, outputs.semantic, {"source": source, "image": vars(image)})
    return image


def describe(decoded: DecodedOutputs, problems: Sequence[str], name: str, space: LabelSpace) -> DecodedImage:
    """Returns which rules an image can feed.

    Args:
        decoded: decoded predictions.
        problems: problems of the entries that are left out.
        name: file name of the image, for the reasons.
        space: label space of the predictions.
    """
    plain, ranked = (decoded.inputs(space, ranked=ranked) for ranked in (False, True))
    unfit = {}
    for rule in RULES:
        try:
            (ranked if rule == "spatial_ranking" else plain).of_rule(rule, {})
        except UserError as error:
            unfit[rule] = f"{name}: {one_line(error)}"
    if decoded.sem_seg.ndim == 3:
        return DecodedImage("", problems, unfit, has_logits=True, has_things=len(decoded.sem_seg) > space.num_stuff)
    is_thing = (space.num_stuff <= decoded.sem_seg) & (decoded.sem_seg < space.num_stuff + space.num_things)
    return DecodedImage("", problems, unfit, has_logits=False, has_things=bool(is_thing.any()))


def save_decoded(path: str | os.PathLike, decoded: DecodedOutputs, semantic: Any, about: Mapping[str, Any]) -> None:
    """Writes the predictions for one image as .npz.

    Args:
        path: path of the file.
        decoded: predictions.
        semantic: path of the .npy file if the predictions have logits.
        about: JSON content that is stored with them.
    """
    has_logits = decoded.sem_seg.ndim == 3
    masks = decoded.masks
    arrays = {
        "about": np.array(json.dumps(about)),
        "logits": np.array(os.path.abspath(semantic) if has_logits else ""),
        "labels": np.zeros((0, 0), np.int32) if has_logits else decoded.sem_seg.astype(np.int32),
        "size": np.array(masks.shape[1:], np.int64),
        "pixels": np.packbits(masks.pixels.numpy()),
        "boxes": masks.boxes.numpy(),
        "scores": decoded.scores,
        "classes": decoded.classes,
        **({} if decoded.ranking is None else {"ranking": decoded.ranking}),
    }
    write_atomically(path, lambda file: np.savez_compressed(file, **arrays))


def load_decoded(path: str | os.PathLike, space: LabelSpace) -> DecodedOutputs:
    """Reads the predictions for one image.

    Raises:
        UserError: the file with the logits cannot be used.
        any of ARCHIVE_ERRORS: the file is missing or damaged.
    """
    with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
        boxes, logits = torch.from_numpy(file["boxes"]), str(file["logits"])
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        pixels = np.unpackbits(file["pixels"], count=int(areas.sum())).astype(bool)
        return DecodedOutputs(
            read_logits(logits, space) if logits else file["labels"].astype(np.int64),
            CroppedMasks.of_pixels(torch.from_numpy(pixels), boxes, tuple(file["size"].tolist())),
            file["scores"],
            file["classes"],
            file.get("ranking"),
        )


def _read_about(path: str | os.PathLike) -> dict[str, Any]:
    """Returns the stored JSON content; for errors see `load_decoded`. All arrays are read, so damage is found."""
    with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
        return json.loads(str({name: file[name] for name in file.files}["about"]))


def score_decoded(
    task: FileTask,
    *,
    rules: Mapping[str, FileRule],
    settings: Mapping[str, Sequence[Setting]],
    space: LabelSpace,
    truth: LabelSpace,
    max_pixels: int,
) -> np.ndarray:
    """Scores settings on one image, as `score_image` does for a network.

    Args:
        task: cached image.
        rules, settings: {name: rule}, and {name of a rule: its settings}.
        space, truth: label spaces of the predictions and of the ground truth.
        max_pixels: largest number of pixels of the ground-truth PNG.
    """
    decoded = load_decoded(task.cached, space)
    plain, ranked = _remembering(decoded.inputs(space, ranked=False)), None
    if "spatial_ranking" in settings:
        ranked = replace(decoded.inputs(space, ranked=True), sem_seg=plain.sem_seg)
    contiguous = truth.contiguous_ids()

    def fuse(name: str, setting: Setting) -> PanopticSeg:
        inputs = ranked if name == "spatial_ranking" else plain
        panoptic_map, segments_info = inputs.fuse(name, **rules[name].options(setting))
        found = []
        for segment in coco_segments(segments_info, space):
            isthing, category_id = contiguous[segment["category_id"]]
            found.append({**segment, "isthing": isthing, "category_id": category_id})
        return panoptic_map, found

    return score_settings(fuse, task.record, settings, max_pixels, truth.num_things, truth.num_stuff)


def _remembering(inputs: ImageInputs) -> ImageInputs:
    """Returns inputs whose full-size logits are computed once for all settings."""
    side = inputs.sem_seg
    if not isinstance(side, SemSegLogits):
        return inputs
    return replace(inputs, sem_seg=RememberedLogits(side.logits, side.padded_size, side.image_size, side.output_size))

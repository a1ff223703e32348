"""Converts a panoptic annotation (PNG of segment ids and segments_info) to a semantic map, boxes, and bit masks.

H, W: image size; N: number of segments; label k > 0 stands for segments_info[k - 1], label 0 for void.
All functions are pure functions on numpy arrays. They work on runs (stretches of equal values in a row). An annotation
has far fewer runs than pixels, so hundreds of segments cost little more than one.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from .dataset_errors import DatasetError, Report, raise_error
from .image_header import MAX_PIXELS, check_pixels, check_regular_file
from .label_space import IGNORE_LABEL, LabelSpace
from .png_decoder import decode_ids, read_chunks

_PNG_COLORS = {0: "grayscale", 2: "RGB", 3: "palette", 4: "grayscale with alpha", 6: "RGB with alpha"}


def read_id_map(
    path: str, report: Report = raise_error, max_pixels: int = MAX_PIXELS, into: np.ndarray | None = None
) -> np.ndarray | None:
    """Reads a panoptic PNG of at most `max_pixels` pixels (INPUT.MAX_PIXELS).

    Returns the segment ids (H, W) int32, R + 256 G + 65536 B, 0 = void; None after an error was reported. A map `into`
    that is no longer needed may be overwritten and returned: new memory takes as long as decoding.
    Only RGB PNGs with 8 bits per channel are accepted. The checksums of the file are verified, so a damaged file is
    a DatasetError and never a wrong label.
    """
    try:
        check_regular_file(path, "missing PNG")
        with open(path, "rb") as file:
            data = file.read()
    except DatasetError as error:
        report(error)
        return None
    except FileNotFoundError:
        report(DatasetError("the PNG is missing", path, "missing PNG"))
        return None
    except OSError as error:
        report(DatasetError(f"the PNG cannot be read ({error.strerror})", path, "missing PNG"))
        return None
    try:
        chunks = read_chunks(data)
    except ValueError as error:
        report(DatasetError(f"the PNG is corrupt: {error}", path, "corrupt PNG"))
        return None
    bits, color = data[24], data[25]
    if color != 2 or bits != 8:
        text = f"the PNG is {_PNG_COLORS.get(color, f'of color type {color}')} with {bits} bits per channel"
        report(DatasetError(f"{text}, not RGB with 8 bits (id = R + 256 G + 65536 B)", path, "PNG not RGB"))
        return None
    try:
        check_pixels(*struct.unpack_from(">II", data, 16), path, max_pixels)
    except DatasetError as error:
        report(error)
        return None
    ids = decode_ids(chunks, into)
    if ids is not None:
        return ids
    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        bgr = None
    if bgr is None:
        report(DatasetError("the PNG is corrupt: its pixels cannot be decoded", path, "corrupt PNG"))
        return None
    # Read as little-endian integers, the bytes R, G, B, 255 are the id with the alpha byte on top.
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGBA).view("<i4")[..., 0] & 0xFFFFFF


def check_map_size(id_map: np.ndarray, height: int, width: int, file: str, report: Report = raise_error) -> bool:
    """Returns whether a PNG has the size of its image; reports a mismatch."""
    if id_map.shape == (height, width):
        return True
    size = f"{id_map.shape[1]}x{id_map.shape[0]}"
    report(
        DatasetError(
            f"the PNG is {size}, but its image is {width}x{height} according to the JSON", file, "wrong PNG size"
        )
    )
    return False


def label_map(
    id_map: np.ndarray, segments_info: Sequence[Mapping[str, Any]], file: str = "", report: Report = raise_error
) -> np.ndarray:
    """Replaces segment ids by labels.

    `id_map` (H, W) int32 is the output of `read_id_map`; `segments_info` holds N dicts with distinct `id` > 0. Returns
    labels (H, W) int32 in 0..N. Reports ids of the PNG that have no segment (their pixels become void), and segments
    without pixels.
    """
    starts, lengths, run_ids = _runs(id_map)
    ids = np.array([0] + [s["id"] for s in segments_info], dtype=np.int64)
    order = np.argsort(ids, kind="stable")
    slot = order[np.minimum(np.searchsorted(ids[order], run_ids), len(ids) - 1)]
    known = ids[slot] == run_ids
    if not known.all():
        for segment_id in np.unique(run_ids[~known]).tolist():
            pixels = int(lengths[run_ids == segment_id].sum())
            text = f"id {segment_id} ({pixels} pixels) is in the PNG, but not in segments_info"
            report(DatasetError(text, file, "id without segment"))
        slot = np.where(known, slot, 0)
    used = np.bincount(slot, minlength=len(ids))
    for label in np.flatnonzero(used[1:] == 0).tolist():
        text = f"segment id {segments_info[label]['id']} of segments_info has no pixel in the PNG"
        report(DatasetError(text, file, "segment without pixel"))
    return np.repeat(slot.astype(np.int32), lengths).reshape(id_map.shape)


def _runs(array: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the runs of equal values in the rows of a 2D array: start (flat index), length, value; each (runs,)."""
    change = np.ones(array.shape, dtype=bool)
    np.not_equal(array[:, 1:], array[:, :-1], out=change[:, 1:])
    starts = np.flatnonzero(change)
    return starts, np.diff(starts, append=array.size), array.reshape(-1)[starts]


def label_extents(labels: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns bounding boxes and areas of the labels 1..num of a map (H, W) of integers in 0..num.

    Returns boxes (num, 4) int64 as x0, y0, x1, y1 in pixels, x1 and y1 exclusive, all 0 for a label that does not
    occur, and areas (num,) int64 in pixels.
    """
    starts, lengths, values = _runs(labels)
    y, x = np.divmod(starts, max(labels.shape[1], 1))
    low = np.full((num + 1, 2), np.iinfo(np.int64).max)
    high = np.zeros((num + 1, 2), dtype=np.int64)
    np.minimum.at(low[:, 0], values, x)
    np.minimum.at(low[:, 1], values, y)
    np.maximum.at(high[:, 0], values, x + lengths)
    np.maximum.at(high[:, 1], values, y + 1)
    areas = np.bincount(values, weights=lengths, minlength=num + 1).astype(np.int64)
    low[areas == 0] = 0
    return np.concatenate([low, high], axis=1)[1:], areas[1:]


def semantic_map(
    labels: np.ndarray, segments_info: Sequence[Mapping[str, Any]], label_space: LabelSpace, ontology: str
) -> np.ndarray:
    """Returns the semantic map (H, W) uint8 of a label map: channels of `ontology`, `IGNORE_LABEL` where void.

    Crowds keep the channel of their class. `segments_info` has contiguous `category_id` and `isthing`.
    """
    table = [IGNORE_LABEL]
    table += [label_space.sem_seg_channel(s["category_id"], s["isthing"], ontology) for s in segments_info]
    return np.array(table, dtype=np.uint8)[labels]


def bit_masks(labels: np.ndarray, wanted: Sequence[int], boxes: np.ndarray) -> np.ndarray:
    """Returns bit masks (M, H, W) bool of the M labels `wanted`; `boxes` (M, 4) are from `label_extents`."""
    masks = np.zeros((len(wanted), *labels.shape), dtype=bool)
    for mask, label, (x0, y0, x1, y1) in zip(masks, wanted, boxes.tolist(), strict=True):
        np.equal(labels[y0:y1, x0:x1], label, out=mask[y0:y1, x0:x1])
    return masks


def decode_segmentation(segmentation: dict | list, height: int, width: int) -> np.ndarray:
    """Decodes an RLE or polygons in COCO format to a mask (H, W) uint8, 0 or 1, C-contiguous."""
    from pycocotools import mask as mask_api  # not installed for exported models alone

    mask = mask_api.decode(compress_segmentation(segmentation, height, width))
    return cv2.transpose(mask.T)  # from column order; Pillow takes ten times as long for that


def compress_segmentation(segmentation: dict | list, height: int, width: int) -> dict:
    """Converts an RLE or polygons in COCO format to one compressed RLE."""
    from pycocotools import mask as mask_api

    if isinstance(segmentation, list) or isinstance(segmentation["counts"], list):
        segmentation = mask_api.frPyObjects(segmentation, height, width)
    return mask_api.merge(segmentation) if isinstance(segmentation, list) else segmentation


def load_annotation(
    record: Mapping[str, Any], report: Report = raise_error, max_pixels: int = MAX_PIXELS
) -> np.ndarray | None:
    """Returns the label map (H, W) int32 of one dataset dict; None if a reported problem prevents it.

    Args:
        record: dict from `load_panoptic`, or one from `unannotated_images`, without `pan_seg_file_name`: all void.
        report: called with each problem.
        max_pixels: maximum number of pixels to decode.
    """
    if "pan_seg_file_name" not in record:
        return np.zeros((record["height"], record["width"]), np.int32)
    file = os.fspath(record["pan_seg_file_name"])
    id_map = read_id_map(file, report, max_pixels)
    if id_map is None or not check_map_size(id_map, record["height"], record["width"], file, report):
        return None
    return label_map(id_map, record["segments_info"], file, report)

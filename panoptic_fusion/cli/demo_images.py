"""Segments the images and video frames of `demo` one by one, and passes each of them to its outputs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from panoptic_fusion.data.annotation import label_extents, label_map
from panoptic_fusion.data.frames import count_frames, frames_of, is_video
from panoptic_fusion.data.label_space import LabelSpace
from panoptic_fusion.errors import DiskError, one_line
from panoptic_fusion.files import safe_name, unused_name
from panoptic_fusion.visualization import ThingTracks


@dataclass(frozen=True)
class SegmentedImage:
    """An image or video frame with its panoptic segmentation.

    Attributes:
        name: file name of its outputs, without suffix; no two images have the same.
        file: path of the image or video.
        file_name: text that names the image in JSON files: its path, or VIDEO/NAME for a frame.
        image: (H, W, 3) uint8 BGR.
        ids: (H, W) int32 segment ids, 0 = void.
        segments_info: segments as the model returns them, with contiguous `category_id`; things of a video have a
            `track_id`.
        label_space: classes and colors of the model.
    """

    name: str
    file: Path
    file_name: str
    image: np.ndarray
    ids: np.ndarray
    segments_info: list[dict[str, Any]]
    label_space: LabelSpace

    @cached_property
    def segments(self) -> list[dict[str, Any]]:
        """Segments in COCO panoptic format, with the class name as `category`; `bbox` is x, y, width, height."""
        labels = label_map(self.ids, self.segments_info, report=lambda fault: None)
        boxes, areas = label_extents(labels, len(self.segments_info))
        return [
            {**_named(info, self.label_space), "area": area, "bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": 0}
            for info, (x0, y0, x1, y1), area in zip(self.segments_info, boxes.tolist(), areas.tolist(), strict=True)
        ]

    def crop(self, segment: Mapping[str, Any]) -> tuple[tuple[slice, slice], np.ndarray]:
        """Returns the box of a segment as an index, and its mask (h, w) bool in this box."""
        x, y, width, height = segment["bbox"]
        box = slice(y, y + height), slice(x, x + width)
        return box, self.ids[box] == segment["id"]


def _named(info: Mapping[str, Any], label_space: LabelSpace) -> dict[str, Any]:
    """Adds the class name to a segment, and replaces its contiguous class by the category id in MODEL.CATEGORIES."""
    if info["isthing"]:
        ids, names = label_space.thing_ids, label_space.thing_classes
    else:
        ids, names = label_space.stuff_ids, label_space.stuff_classes
    category = info["category_id"]
    return {**info, "category_id": ids[category], "category": names[category]}


@dataclass(frozen=True)
class Source:
    """Source of panoptic segmentations.

    Attributes:
        predict: function that segments a BGR image (H, W, 3) uint8; it returns the map (H, W) int32 and segments_info.
        label_space: classes and colors of the model.
        max_pixels: INPUT.MAX_PIXELS.
    """

    predict: Callable[[np.ndarray], tuple[np.ndarray, list[dict[str, Any]]]]
    label_space: LabelSpace
    max_pixels: int


def printable(path: str | os.PathLike) -> str:
    """Returns a path as text for JSON and any terminal, with question marks for bytes that are not UTF-8."""
    return os.fsencode(path).decode("utf-8", "replace")


class Output(Protocol):
    """Writer of one kind of file; `write` raises DiskError if the disk is full."""

    def write(self, segmented: SegmentedImage) -> None:
        """Writes the files of one image."""


def segment_files(source: Source, files: list[Path], outputs: Sequence[Output]) -> list[str]:
    """Segments images and videos one after the other, and passes each image or frame to the outputs.

    Args:
        source: source of the segmentations.
        files: images and videos.
        outputs: outputs in the order in which they write.

    Returns:
        A message per file that could not be read or segmented.

    Raises:
        DiskError: the disk is full; the message contains the number of finished images.
    """
    skipped: list[str] = []
    used: set[str] = set()
    done, followed, tracks = 0, None, ThingTracks()
    frames = frames_of(files, skipped, source.max_pixels)
    total = sum(map(count_frames, files))
    for file, frame, image in _with_bar(frames, total):
        if file != followed:
            followed, tracks = file, ThingTracks()
        try:
            segmented = segment(source, image, file, frame, unused_name(safe_name(frame), used), tracks)
            for output in outputs:
                output.write(segmented)
            done += 1
        except DiskError as error:
            raise DiskError(f"{done} images are done: {error}") from error
        except Exception as error:  # such as a strip one pixel wide, or an image too large for the memory
            skipped.append(f"{printable(file)}: {type(error).__name__}: {one_line(error)[:300]}")
    return skipped


def segment(
    source: Source, image: np.ndarray, file: Path, frame: str, name: str, tracks: ThingTracks
) -> SegmentedImage:
    """Segments one BGR image or video frame, and gives the things of a video the numbers of their tracks."""
    ids, segments_info = source.predict(image)
    if is_video(file):
        segments_info = tracks.update(ids, segments_info)
    file_name = printable(file if frame == file.stem else file / frame)
    return SegmentedImage(name, file, file_name, image, ids, segments_info, source.label_space)


def _with_bar(frames: Iterable[tuple[Path, str, np.ndarray]], total: int) -> Iterator[tuple[Path, str, np.ndarray]]:
    """Yields the frames, with a progress bar on a terminal if tqdm is installed."""
    try:
        from tqdm import tqdm
    except ImportError:  # an exported model needs no package for a bar
        return iter(frames)
    return iter(tqdm(frames, total=total, unit="image", mininterval=1, disable=None))

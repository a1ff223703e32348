"""Writes what `demo` produces: one class per kind of file.

Each output has a method `write`, which gets one segmented image after the other. Outputs that must be finished are
context managers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from panoptic_fusion.data.frames import frame_rate, is_video
from panoptic_fusion.data.panoptic_png import write_panoptic_png
from panoptic_fusion.data.rle import encode_crop
from panoptic_fusion.files import remove_partial_files, safe_name, unused_name, write_image
from panoptic_fusion.growing_json import GrowingJson
from panoptic_fusion.visualization import VideoFile, draw_panoptic, write_picture

from .demo_images import SegmentedImage, printable

INSTANCE_KEYS = ("category_id", "area", "bbox", "iscrowd", "score", "track_id")  # of segments, in instances.json


class Pictures:
    """Visualizations: NAME.jpg per image, reduced to MAX_SIDE pixels and MAX_BYTES bytes if it is larger.

    The pictures are also passed to `videos`.
    """

    def __init__(self, folder: str, alpha: float, scores: bool, videos: Videos | None = None):
        """Initializes the output; see `draw_panoptic` for `alpha` and `scores`."""
        self._folder, self._alpha, self._scores, self._videos = folder, alpha, scores, videos

    def write(self, segmented: SegmentedImage) -> None:
        """Draws and writes one image."""
        picture = draw_panoptic(
            segmented.image[:, :, ::-1],
            segmented.ids,
            segmented.segments_info,
            segmented.label_space,
            self._alpha,
            self._scores,
        )
        write_picture(os.path.join(self._folder, f"{segmented.name}.jpg"), picture)
        if self._videos:
            self._videos.write(segmented.file, picture)


class Videos:
    """Annotated videos: one per input video, with its name, frame rate and size, reduced like the pictures."""

    def __init__(self, folder: str):
        """Initializes the output; `folder` must exist."""
        self._folder = Path(folder)
        self._used: set[str] = set()
        self._source: Path | None = None
        self._file: VideoFile | None = None

    def write(self, source: Path, picture: np.ndarray) -> None:
        """Adds a picture (h, w, 3) uint8 RGB, if `source` is a video; the frames of one video come in sequence."""
        if source != self._source:
            if self._file:
                self._file.close()
            self._file, self._source = None, source  # before the next step: if it fails, this is reported once
            if is_video(source):
                stem = self._folder / unused_name(safe_name(source.stem), self._used)
                self._file = VideoFile(stem, frame_rate(source), picture.shape[:2])
        if self._file:
            self._file.write(picture)

    def __enter__(self) -> Videos:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._file:
            self._file.__exit__(*error)


class IdMaps:
    """Panoptic PNGs: NAME.png per image, with the colors id = R + 256 G + 65536 B."""

    def __init__(self, folder: str):
        """Initializes the output; `folder` must exist."""
        self._folder = folder

    def write(self, segmented: SegmentedImage) -> None:
        """Writes the map of one image in full size."""
        write_panoptic_png(os.path.join(self._folder, f"{segmented.name}.png"), segmented.ids)


class Cutouts:
    """Cut-out segments: cutouts/IMAGE_CLASS_ID.png per segment, its box as RGBA, fully transparent outside its mask."""

    def __init__(self, folder: str):
        """Creates the folder `cutouts` in `folder`."""
        self._folder = Path(folder, "cutouts")
        self._folder.mkdir(exist_ok=True)
        remove_partial_files(self._folder)
        self._used: set[str] = set()

    def write(self, segmented: SegmentedImage) -> None:
        """Writes the segments of one image."""
        for segment in segmented.segments:
            box, mask = segmented.crop(segment)
            rgb = np.where(mask[:, :, None], segmented.image[box][:, :, ::-1], np.uint8(0))
            name = f"{segmented.name}_{safe_name(segment['category'])}_{segment['id']}"
            path = self._folder / f"{unused_name(name, self._used)}.png"
            write_image(path, np.dstack([rgb, mask * np.uint8(255)]))


class _JsonOutput:
    """Output that keeps a JSON file open until its end."""

    _file: GrowingJson

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.__exit__(*error)


class InstancesJson(_JsonOutput):
    """The things as COCO instances, in instances.json, for correction in an annotation tool.

    Masks are compressed RLEs, which are exact; image and annotation ids are numbers from 1. The annotations of an image
    are written before its entry in `images`, so that a killed run lists no image without its things.
    """

    def __init__(self, folder: str, categories: Sequence[Mapping[str, Any]]):
        """Creates the file.

        Args:
            folder: existing folder.
            categories: categories of the model (MODEL.CATEGORIES).
        """
        things = [dict(category) for category in categories if category["isthing"]]
        self._file = GrowingJson(Path(folder, "instances.json"), {"categories": things}, ("annotations", "images"))
        self._images = self._annotations = 0

    def write(self, segmented: SegmentedImage) -> None:
        """Adds one image and its things."""
        self._images += 1
        height, width = segmented.ids.shape
        annotations = []
        for segment in segmented.segments:
            if segment["isthing"]:
                self._annotations += 1
                (rows, columns), mask = segmented.crop(segment)
                rle = encode_crop(mask, rows.start, columns.start, (height, width))
                kept = {key: segment[key] for key in INSTANCE_KEYS if key in segment}
                entry = {"id": self._annotations, "image_id": self._images, "segmentation": rle, **kept}
                annotations.append(entry)
        image = {"id": self._images, "file_name": segmented.file_name, "width": width, "height": height}
        self._file.extend(annotations, [image])


class PanopticJson(_JsonOutput):
    """The segments of all images in COCO panoptic format, in panoptic.json.

    Attributes:
        images: entries of `images`.
        annotations: entries of `annotations`, which also have the path of the file as `image`.
    """

    def __init__(self, folder: str, categories: Sequence[Mapping[str, Any]]):
        """Creates the file; see `InstancesJson` for the arguments."""
        path = Path(folder, "panoptic.json")
        self._file = GrowingJson(path, {"categories": list(categories)}, ("images", "annotations"))
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def write(self, segmented: SegmentedImage) -> None:
        """Adds one image."""
        height, width = segmented.ids.shape
        image = {"id": segmented.name, "file_name": segmented.file_name, "width": width, "height": height}
        annotation = {
            "image_id": segmented.name,
            "image": printable(segmented.file),
            "file_name": f"{segmented.name}.png",
            "segments_info": segmented.segments,
        }
        self._file.append(image, annotation)
        self.images.append(image)
        self.annotations.append(annotation)

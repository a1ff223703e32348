"""Writes videos with the encoders that OpenCV's wheel contains, frame by frame."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from panoptic_fusion.data.frames import video_property
from panoptic_fusion.errors import DiskError, UserError

# VP8 in WebM plays in browsers, and a file that was cut off still plays. MJPG is built into OpenCV, but is larger.
FORMATS = (("VP80", ".webm"), ("MJPG", ".avi"))

_LOGGER = logging.getLogger(__name__)


class VideoFile:
    """Writer of a video: WebM with VP8, or AVI with MJPG if this OpenCV has no VP8 encoder.

    Until it is closed without an error, the file is named "NAME (unfinished)" plus its suffix. After a kill, this file
    plays up to its last seconds. The next VideoFile of the same name replaces it.

    Attributes:
        path: name of the finished file, with its suffix.
    """

    def __init__(self, stem: str | os.PathLike, rate: float, size: tuple[int, int]):
        """Creates the file.

        Args:
            stem: path without the suffix.
            rate: frames per second.
            size: (height, width) of the frames in pixels; an odd number gets one more pixel, a copy of the last.

        Raises:
            UserError: if OpenCV cannot write a video there.
        """
        stem = Path(stem)
        self._height, self._width = (side + side % 2 for side in size)
        self._count = 0
        for codec, suffix in FORMATS:
            self.path = stem.with_name(f"{stem.name}{suffix}")
            self.unfinished = stem.with_name(f"{stem.name} (unfinished){suffix}")
            with _silent_stderr():  # OpenCV reports that WebM has no code for VP8, and writes it nevertheless
                self._writer = cv2.VideoWriter(
                    str(self.unfinished), cv2.VideoWriter.fourcc(*codec), rate, (self._width, self._height)
                )
            if self._writer.isOpened():
                if codec != FORMATS[0][0]:
                    _LOGGER.warning("%s: this OpenCV cannot write %s%s", self.path, *FORMATS[0])
                return
            self.unfinished.unlink(missing_ok=True)
        codecs = " and ".join(codec for codec, _ in FORMATS)
        raise UserError(f"{stem}: OpenCV cannot write a video of {self._width}x{self._height} pixels ({codecs})")

    def write(self, rgb: np.ndarray) -> None:
        """Adds a frame (h, w, 3) uint8 RGB; a frame of another size than the video is resized."""
        height, width = rgb.shape[:2]
        if (height + height % 2, width + width % 2) == (self._height, self._width):
            rgb = np.pad(rgb, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        else:
            rgb = cv2.resize(rgb, (self._width, self._height), interpolation=cv2.INTER_AREA)
        self._writer.write(rgb[:, :, ::-1])
        self._count += 1

    def close(self) -> None:
        """Finishes the file and gives it its name.

        Raises:
            DiskError: if frames are missing in the file, because OpenCV does not report a full disk.
        """
        self._writer.release()
        if abs(video_property(self.unfinished, cv2.CAP_PROP_FRAME_COUNT) - self._count) > 1:
            self.unfinished.unlink()
            raise DiskError(
                f"cannot write {self.path}: frames are missing in the file; the disk may be full. What was finished "
                "before is kept; free some space and start again"
            )
        os.replace(self.unfinished, self.path)

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._writer.release()


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Discards what C code writes to the process's stderr."""
    sys.stderr.flush()
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)

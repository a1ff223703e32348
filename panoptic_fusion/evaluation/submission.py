"""Writes predictions as COCO panoptic files, the format of submission servers: one PNG per image and one JSON.

Each PNG is written atomically once its image has been predicted, and its JSON entry is appended to
`<folder>.rank<r>.jsonl`. If the evaluation fails later, all predictions made so far are kept.
"""

import json
import os
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.utils import comm

from ..data.label_space import LabelSpace
from ..data.panoptic_png import write_panoptic_png
from ..files import write_json


def coco_segments(segments_info: Iterable[Mapping[str, Any]], label_space: LabelSpace) -> list[dict[str, Any]]:
    """Returns COCO entries for a model's `segments_info`, with the dataset's category ids and Python numbers."""
    segments = []
    for info in segments_info:
        ids = label_space.thing_ids if info["isthing"] else label_space.stuff_ids
        segment = {"id": int(info["id"]), "category_id": int(ids[info["category_id"]])}
        segment.update({key: kind(info[key]) for key, kind in (("area", int), ("score", float)) if key in info})
        segments.append(segment)
    return segments


class SubmissionWriter:
    """Writer of `<folder>/<image>.png` per image and of `<folder>.json` at the end, over all processes."""

    def __init__(self, folder: str | os.PathLike, label_space: LabelSpace):
        """Initializes the writer and creates its folder.

        Args:
            folder: folder for the PNGs, created if it does not exist.
            label_space: label space that provides the category ids of the dataset.
        """
        self._folder = Path(folder)
        self._label_space = label_space
        self._folder.mkdir(parents=True, exist_ok=True)
        self._entries = Path(f"{self._folder}.rank{comm.get_rank()}.jsonl")
        self._entries.write_text("")
        self._collected: list[dict[str, Any]] = []  # entries that `finish` has read

    def write(
        self,
        image: Mapping[str, Any],
        file_name: str,
        panoptic_map: np.ndarray,
        segments_info: Iterable[Mapping[str, Any]],
    ) -> None:
        """Writes one image.

        Args:
            image: dict with image_id and file_name.
            file_name: name of the PNG in the folder.
            panoptic_map: (H, W) integer array of segment ids.
            segments_info: segments_info of the model, with isthing and contiguous category ids; not modified.
        """
        write_panoptic_png(self._folder / file_name, panoptic_map)
        height, width = panoptic_map.shape
        entry = {
            "image": {
                "id": image["image_id"],
                "file_name": os.path.basename(image["file_name"]),
                "height": height,
                "width": width,
            },
            "annotation": {
                "image_id": image["image_id"],
                "file_name": file_name,
                "segments_info": coco_segments(segments_info, self._label_space),
            },
        }
        with open(self._entries, "a") as file:
            file.write(json.dumps(entry) + "\n")

    def finish(self, distributed: bool = True) -> Path | None:
        """Writes the JSON, with the entries of all processes if `distributed`; more images can follow.

        Returns:
            The path of the JSON, or None in the processes that do not write it.
        """
        if self._entries.is_file():
            self._collected += [json.loads(line) for line in self._entries.read_text().splitlines()]
        entries = self._collected
        if distributed:
            entries = list(chain.from_iterable(comm.gather(entries)))
        first: dict = {}  # first entry per image: padding samplers repeat images in other processes
        for entry in entries:
            first.setdefault(entry["image"]["id"], entry)
        entries = list(first.values())
        path = None
        if not distributed or comm.is_main_process():
            path = Path(f"{self._folder}.json")
            content = {"images": [e["image"] for e in entries], "annotations": [e["annotation"] for e in entries]}
            write_json(path, {**content, "categories": self._label_space.to_categories()})
        if distributed:
            comm.synchronize()  # no process deletes its entries before the JSON is written
        self._entries.unlink(missing_ok=True)
        return path

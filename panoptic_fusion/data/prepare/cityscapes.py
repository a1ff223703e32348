"""Converts Cityscapes instanceIds PNGs to COCO panoptic, with the same result as cityscapesscripts' createPanopticImgs.

The function in cityscapesscripts converts a split in one process and keeps nothing when interrupted, so the rule is
reimplemented in `convert`; tests compare the two. An id below 1000 is a label id: for a class with instances it marks a
group, which is a crowd. From 1000 on it is label id * 1000 + instance. Labels that evaluation ignores are void. The
segment id is the instance id, the category id the label id. One entry differs: an image's `file_name` is its path
below leftImg8bit/{split}, while createPanopticImgs writes a name that matches no file
("..._gtFine_leftImg8bit.png").
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ...errors import UserError
from ..datasets.cityscapes import cityscapes_files
from .runner import Converted, Source, SplitPlan
from .segments import describe_segments, read_id_map

SUFFIX = "_gtFine_instanceIds.png"


def annotation_folder(root: Path, split: str) -> Path:
    """Returns the folder of the official annotations of a split."""
    return root / "gtFine" / split


def plan_split(root: Path, split: str) -> SplitPlan:
    """Lists the annotations of a split to convert. Raises UserError if cityscapesscripts is not installed."""
    files = cityscapes_files(str(root), split)
    sources = []
    for path in sorted(annotation_folder(root, split).glob(f"*/*{SUFFIX}")):
        image_id = path.name.removesuffix(SUFFIX)
        image_name = f"{path.parent.name}/{image_id}_leftImg8bit.png"
        sources.append(Source(image_id, image_name, str(path), f"{image_id}_gtFine_panoptic.png"))
    return SplitPlan(Path(files.panoptic_json), Path(files.panoptic_root), _categories(), sources, convert)


def convert(source: Source) -> Converted:
    """Converts one instanceIds PNG. Raises ValueError if it holds an id that Cityscapes does not define."""
    id2label = _labels().id2label
    id_map = read_id_map(source.path)
    categories = {}
    for segment_id in np.flatnonzero(np.bincount(id_map.ravel())).tolist():
        label = id2label.get(segment_id if segment_id < 1000 else segment_id // 1000)
        if label is None:
            raise ValueError(f"{source.path}: {segment_id} is not an instance id of Cityscapes")
        if not label.ignoreInEval:
            categories[segment_id] = (label.id, int(segment_id < 1000 and label.hasInstances))
    pixels, segments = describe_segments(id_map, categories)
    return Converted(pixels, segments)


def _labels() -> ModuleType:
    """Returns the label table of cityscapesscripts."""
    try:
        from cityscapesscripts.helpers import labels
    except ImportError as error:
        raise UserError("Cityscapes needs its official package: pip install cityscapesscripts") from error
    return labels


def _categories() -> list[dict[str, Any]]:
    """Returns the JSON's categories as createPanopticImgs writes them."""
    return [
        {
            "id": label.id,
            "name": label.name,
            "color": list(label.color),
            "supercategory": label.category,
            "isthing": int(label.hasInstances),
        }
        for label in _labels().labels
        if not label.ignoreInEval
    ]

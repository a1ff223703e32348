"""Converts IDD's polygon JSON files to COCO panoptic at level 3.

Polygons are painted in list order, later ones over earlier ones, with PIL's polygon fill, as in the dataset's own tool.
Pixels that no polygon or a polygon of a void label covers are void. Each object of a thing class is one segment; groups
("cargroup") are merged into one crowd segment; a stuff class has one segment per image.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ..datasets.idd import VOID_LEVEL3, IddLabel, idd_categories, idd_files, idd_labels
from .runner import Converted, Source, SplitPlan
from .segments import check_image, describe_segments

SUFFIX = "_gtFine_polygons.json"
GROUP = "group"


def annotation_folder(root: Path, split: str) -> Path:
    """Returns the folder of the official annotations of a split."""
    return root / "gtFine" / split


def plan_split(root: Path, split: str) -> SplitPlan:
    """Lists the annotations of a split to convert. Drives share frame numbers, so image ids are {drive}_{frame}."""
    files = idd_files(str(root), split)
    sources = []
    for path in sorted(annotation_folder(root, split).glob(f"*/*{SUFFIX}")):
        image_id = f"{path.parent.name}_{path.name.removesuffix(SUFFIX)}"
        image_name = _image_name(path, Path(files.images))
        sources.append(Source(image_id, image_name, str(path), f"{image_id}_gtFine_panoptic.png"))
    task = partial(convert, files.images)
    return SplitPlan(Path(files.panoptic_json), Path(files.panoptic_root), idd_categories(), sources, task)


def convert(images: str, source: Source) -> Converted:
    """Converts one polygon JSON; `images` is the folder that its image's name is relative to.

    Raises ValueError if the JSON is not an annotation or the image size differs, FileNotFoundError without the image.
    """
    annotation = _read(source.path)
    width, height = annotation["imgWidth"], annotation["imgHeight"]
    check_image(Path(images, source.image_name), (height, width), source.path)
    things = {c["id"] for c in idd_categories() if c["isthing"]}
    canvas = Image.new("I", (width, height), 0)
    draw = ImageDraw.Draw(canvas)
    categories: dict[int, tuple[int, int]] = {}
    merged: dict[tuple[int, int], int] = {}  # segments made of several polygons: (category id, iscrowd) -> id
    notes: Counter[str] = Counter()
    for entry in annotation["objects"]:
        label, is_group = _label_of(entry.get("label"))
        polygon = [tuple(point) for point in entry.get("polygon") or ()]
        if entry.get("deleted") or len(polygon) < 2:
            continue
        if label is None:
            notes[f"label {entry.get('label')!r} is unknown: its polygons are skipped"] += 1
            continue
        if label.level3_id == VOID_LEVEL3:
            segment_id = 0
        else:
            isthing = label.level3_id in things
            category = (label.level3_id, int(isthing and is_group))
            new = len(categories) + 1
            segment_id = new if isthing and not is_group else merged.setdefault(category, new)
            categories[segment_id] = category
        draw.polygon(polygon, fill=segment_id)
    pixels, segments = describe_segments(np.asarray(canvas), categories)
    return Converted(pixels, segments, dict(notes))


def _label_of(name: Any) -> tuple[IddLabel | None, bool]:
    """Returns the label and whether the name means a group; a known name with that ending ("polegroup") does not."""
    labels = idd_labels()
    if name in labels:
        return labels[name], False
    if isinstance(name, str) and name.endswith(GROUP):
        return labels.get(name.removesuffix(GROUP).rstrip()), True
    return None, False


def _read(path: str) -> dict[str, Any]:
    try:
        annotation = json.loads(Path(path).read_bytes())
        sizes = [annotation[key] for key in ("imgWidth", "imgHeight")]
        if not isinstance(annotation["objects"], list) or not all(isinstance(s, int) and s > 0 for s in sizes):
            raise ValueError("imgWidth, imgHeight or objects is wrong")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not an IDD polygon JSON ({error}); download it again") from error
    return annotation


def _image_name(annotation: Path, images: Path) -> str:
    """Returns the image's path below leftImg8bit/{split}: a PNG, or a JPEG in part II of the dataset."""
    stem = f"{annotation.parent.name}/{annotation.name.removesuffix(SUFFIX)}_leftImg8bit"
    return f"{stem}.jpg" if (images / f"{stem}.jpg").is_file() else f"{stem}.png"

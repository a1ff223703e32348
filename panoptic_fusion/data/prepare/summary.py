"""Summarizes a prepared split from its JSON: images, segments per class, fraction of void pixels."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import UserError, counted, plain_line


@dataclass(frozen=True)
class SplitSummary:
    """Summary of a prepared split.

    `segments` and `crowds`: class name -> count (crowds are not in `segments`); `void_share`: fraction of all pixels;
    `empty`: images without a segment; `converted`, `kept`: images converted by this run and by earlier runs;
    `notes`: further remarks.
    """

    name: str
    images: int
    empty: int
    segments: dict[str, int]
    crowds: dict[str, int]
    void_share: float
    converted: int = 0
    kept: int = 0
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        segments = counted(sum(self.segments.values()), "segment")
        crowds = counted(sum(self.crowds.values()), "crowd")
        lines = [
            f"{self.name}: {counted(self.images, 'image')} ({self.empty} without a segment), {segments}, {crowds}, "
            f"{self.void_share:.1%} of the pixels void"
        ]
        if self.converted or self.kept:
            lines.append(f"  {counted(self.converted, 'image')} converted now, {self.kept} before")
        names = {name: plain_line(name) for name in self.segments}
        width = max(map(len, names.values()), default=0)
        for name, count in self.segments.items():
            crowds = f" + {self.crowds[name]} crowds" if self.crowds.get(name) else ""
            lines.append(f"  {names[name]:<{width}} {count:>9}{crowds}")
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)


def summarize(
    name: str, panoptic_json: Path, panoptic_root: Path, converted: int = 0, kept: int = 0, notes: Sequence[str] = ()
) -> SplitSummary:
    """Summarizes a split; opens no PNG. Raises UserError if the JSON is unusable or one of its PNGs is missing."""
    try:
        data = json.loads(panoptic_json.read_bytes())
        classes = {c["id"]: c["name"] for c in data["categories"]}
        pixels = sum(image["height"] * image["width"] for image in data["images"])
        segments, crowds = Counter(dict.fromkeys(classes.values(), 0)), Counter()
        covered = empty = 0
        for annotation in data["annotations"]:
            empty += not annotation["segments_info"]
            for segment in annotation["segments_info"]:
                (crowds if segment.get("iscrowd") else segments)[classes[segment["category_id"]]] += 1
                covered += segment["area"]
        names = [annotation["file_name"] for annotation in data["annotations"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{panoptic_json} is not a usable COCO panoptic JSON ({error!r}); download it again") from error
    missing = sorted(set(names) - set(os.listdir(panoptic_root) if panoptic_root.is_dir() else ()))
    if missing:
        others = f" and {len(missing) - 1} other PNGs of {panoptic_json} are" if missing[1:] else " is"
        raise UserError(f"{panoptic_root / missing[0]}{others} missing")
    void_share = 1 - covered / pixels if pixels else 0.0
    found = (len(data["images"]), empty, dict(segments), dict(crowds), void_share)
    return SplitSummary(name, *found, converted, kept, tuple(notes))

"""Formats the report of an import as text."""

from __future__ import annotations

from collections import Counter

from ...errors import counted, plain_line
from .result import PROBLEMS, ImportResult

SHOWN = 20
MAX_WIDTH = 40  # of the column of class names; longer ones are not cut off


def format_result(result: ImportResult) -> str:
    """Formats the classes with the reason why each is a thing or stuff, the settings, and everything skipped."""
    splits = [f"{split or 'without a split'} {count}" for split, count in result.images.items()]
    images = "no splits" if set(result.images) == {""} else ", ".join(splits)
    crowds = f", {result.crowds} of them crowds" if result.crowds else ""
    lines = [
        f"{result.output}: {counted(sum(result.images.values()), 'image')} ({images}), "
        f"{counted(result.segments.total(), 'segment')}{crowds}",
        f"format: {result.format}; overlaps: {result.order}; {counted(result.painted, 'image')} painted now",
        "classes (choose with --things or --stuff of `panoptic-fusion import`):",
    ]
    names = [plain_line(category.name) for category in result.categories]
    width = min(max(map(len, names)), MAX_WIDTH)
    for category, name in zip(result.categories, names, strict=True):
        kind = "thing" if category.isthing else "stuff"
        count = result.segments[category.id]
        lines.append(f"  {kind}  {name:{width}}  {count:6} segments  {category.reason}")
    lines += [f"note: {plain_line(text)}: {count}" for text, count in sorted(result.notes.items())]
    if not result.faults:
        return "\n".join(lines)
    kinds = Counter(fault.kind for fault in result.faults)
    counts = ", ".join(f"{count} x {kind}" for kind, count in kinds.most_common())
    lines.append(f"left out: {len(result.faults)} ({counts})")
    lines += [f"  {plain_line(str(fault))}" for fault in result.faults[:SHOWN]]
    if len(result.faults) > SHOWN:
        lines.append(f"  and {len(result.faults) - SHOWN} more: see {result.output}/{PROBLEMS}")
    return "\n".join(lines)

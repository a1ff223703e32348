"""Class and size statistics of a checked dataset, and a selection of representative images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..markdown import escape_markdown
from .checks import CheckResult, ImageSummary
from .label_space import LabelSpace

SAMPLES = 6  # images chosen only by their position in the JSON
SMALL, LARGE = 32**2, 96**2  # pixels; COCO's limits for small and large objects


def dataset_statistics(result: CheckResult) -> dict[str, Any]:
    """Computes the statistics of a checked dataset over the images that could be read.

    Args:
        result: output of `check_dataset`, with a label space.

    Returns:
        Plain Python for a JSON. `images`: number of images; `width`, `height`, `segments_per_image`, `void` (fraction
        of the image): `{"min", "median", "max"}`; `problems`: count per kind; `classes`: for each class, in the order
        of the label space (things first), `id`, `name`, `isthing`, `images`, `segments`, and `crowds` (counts),
        `pixels` (fraction of all pixels), `area` (pixels per segment, `{"min", "median", "max"}`), `small`, `medium`,
        and `large` (segment counts by COCO's limits).
    """
    space, images = result.label_space, [image for image in result.images if image.annotated]
    areas: dict[int, list[int]] = {}
    crowds: dict[int, int] = {}
    seen_in: dict[int, int] = {}
    for image in images:
        for category_id, iscrowd, area in image.segments:
            areas.setdefault(category_id, []).append(area)
            crowds[category_id] = crowds.get(category_id, 0) + iscrowd
        for category_id in {segment[0] for segment in image.segments}:
            seen_in[category_id] = seen_in.get(category_id, 0) + 1
    classes = []
    for isthing, category_id, name in _classes(space):
        sizes = np.array(areas.get(category_id, ()), np.int64)
        classes.append(
            {
                "id": category_id,
                "name": name,
                "isthing": isthing,
                "images": seen_in.get(category_id, 0),
                "segments": len(sizes),
                "crowds": crowds.get(category_id, 0),
                "pixels": float(sizes.sum() / max(result.pixels, 1)),
                "area": _spread(sizes),
                "small": int((sizes < SMALL).sum()),
                "medium": int(((sizes >= SMALL) & (sizes < LARGE)).sum()),
                "large": int((sizes >= LARGE).sum()),
            }
        )
    kinds = [fault.kind for fault in result.faults]
    return {
        "images": len(images),
        "width": _spread([image.width for image in images]),
        "height": _spread([image.height for image in images]),
        "segments_per_image": _spread([len(image.segments) for image in images]),
        "void": _spread([image.void_fraction for image in images]),
        "problems": {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)},
        "classes": classes,
    }


def choose_images(result: CheckResult, limit: int = 24) -> list[tuple[ImageSummary, list[str]]]:
    """Chooses images that show every class, the extremes of size, and suspicious annotations.

    Args:
        result: output of `check_dataset`, with a label space.
        limit: maximum number of images.

    Returns:
        Images with the reasons for each, in the order of choice: the images with the largest and smallest size, the
        most void and the most segments; the first of each kind of problem; then a small set that covers all classes
        (greedy set cover); then samples spread evenly over the dataset. Ties go to the first image of the JSON, so the
        choice is deterministic.
    """
    images = [image for image in result.images if image.annotated]
    if not images:
        return []
    reasons: dict[int, list[str]] = {}  # keyed by position in `images`

    def choose(position: int, reason: str) -> None:
        if position in reasons or len(reasons) < limit:
            reasons.setdefault(position, []).append(reason)

    pixels = [image.width * image.height for image in images]
    void = [image.void_fraction for image in images]
    segments = [len(image.segments) for image in images]
    if min(pixels) < max(pixels):
        choose(int(np.argmax(pixels)), "largest image")
        choose(int(np.argmin(pixels)), "smallest image")
    choose(int(np.argmax(void)), f"most void ({max(void):.0%})")
    choose(int(np.argmax(segments)), f"most segments ({max(segments)})")
    for kind in dict.fromkeys(kind for image in images for kind in image.kinds):
        choose(next(i for i, image in enumerate(images) if kind in image.kinds), f"suspicious: {kind}")
    names = {category_id: name for _, category_id, name in _classes(result.label_space)}
    shown = [{segment[0]: segment[2] for segment in sorted(image.segments, key=lambda s: s[2])} for image in images]
    missing = set().union(*shown) & set(names)
    for position in reasons:
        missing -= set(shown[position])
    while missing and len(reasons) < limit:
        gains = [len(missing & set(classes)) for classes in shown]
        areas = [sum(area for category_id, area in classes.items() if category_id in missing) for classes in shown]
        best = max(range(len(images)), key=lambda i: (gains[i], areas[i], -i))
        found = sorted(missing & set(shown[best]), key=lambda c: names[c])
        choose(best, "shows " + ", ".join(names[c] for c in found))
        missing -= set(found)
    for position in np.linspace(0, len(images) - 1, min(SAMPLES, len(images))).round().astype(int).tolist():
        if position not in reasons:
            choose(position, "sample")
    return [(images[position], texts) for position, texts in reasons.items()]


def format_statistics(name: str, statistics: dict[str, Any]) -> str:
    """Formats `dataset_statistics` as a Markdown document."""

    def spread(values: dict[str, float] | None, digits: str = ",.0f") -> str:
        if values is None:
            return "–"
        return " / ".join(format(values[key], digits) for key in ("min", "median", "max"))

    lines = [
        f"# {escape_markdown(name)}",
        "",
        f"{statistics['images']} annotated images. Minimum / median / maximum:",
        "",
        "| width | height | segments per image | void |",
        "|---|---|---|---|",
        f"| {spread(statistics['width'])} | {spread(statistics['height'])} "
        f"| {spread(statistics['segments_per_image'])} | {spread(statistics['void'], '.1%')} |",
        "",
    ]
    if statistics["problems"]:
        lines += ["| problem | number |", "|---|---|"]
        lines += [f"| {kind} | {number} |" for kind, number in statistics["problems"].items()] + [""]
    lines += [
        "| class | kind | images | segments | crowds | pixels | area: min / median / max | small / medium / large |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in statistics["classes"]:
        kind = "thing" if row["isthing"] else "stuff"
        lines.append(
            f"| {escape_markdown(row['name'])} | {kind} | {row['images']} | {row['segments']} | {row['crowds']} "
            f"| {row['pixels']:.2%} | {spread(row['area'])} | {row['small']} / {row['medium']} / {row['large']} |"
        )
    lines += ["", f"Small: below {SMALL} pixels; large: {LARGE} pixels and more (the limits of COCO).", ""]
    return "\n".join(lines)


def _classes(space: LabelSpace) -> Iterable[tuple[int, int, str]]:
    """Returns (isthing, category id, name) of all classes, things first."""
    yield from ((1, i, name) for i, name in zip(space.thing_ids, space.thing_classes, strict=True))
    yield from ((0, i, name) for i, name in zip(space.stuff_ids, space.stuff_classes, strict=True))


def _spread(values: Sequence[float] | np.ndarray) -> dict[str, float] | None:
    """Returns minimum, median, and maximum; None without values."""
    if len(values) == 0:
        return None
    return {"min": float(np.min(values)), "median": float(np.median(values)), "max": float(np.max(values))}

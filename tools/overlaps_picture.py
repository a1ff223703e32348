#!/usr/bin/env python
"""Draws docs/importing_overlaps.png, which shows the same shapes painted by each overlap rule.

python tools/overlaps_picture.py docs/importing_overlaps.png
"""

import argparse

import cv2
import numpy as np

from panoptic_fusion.data.importers.masks import box_ring, ellipse_ring
from panoptic_fusion.data.importers.painting import PaintRules, paint
from panoptic_fusion.data.importers.shapes import ImageAnnotation, Polygon, Shape

SIZE = (150, 200)
COLORS = {"road": (128, 64, 128), "car": (0, 90, 200), "person": (220, 20, 60), "dog": (240, 160, 30)}
VOID = (0, 0, 0)
# Label, outline, z and hole of each shape, in file order.
SHAPES = (
    ("person", ellipse_ring(95, 70, 20, 48), 1.0, None),
    ("car", box_ring(30, 50, 170, 115), 2.0, box_ring(120, 62, 155, 85)),
    ("dog", ellipse_ring(150, 112, 38, 20), 0.5, None),
    ("__ignore__", box_ring(10, 100, 50, 140), 4.0, None),
    ("road", box_ring(0, 90, 200, 150), 0.0, None),
)
RULES = (
    ("as in the file", "annotation", None),
    ("z-order", "z", None),
    ("smaller in front", "smaller-in-front", None),
    ("--unlabeled sky", "z", "sky"),
)


def main() -> None:
    """Runs the tool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", help="the picture to write")
    args = parser.parse_args()
    panels = [outlines(), *(panel(*rule) for rule in RULES)]
    picture = np.concatenate([np.pad(p, ((4, 4), (4, 4), (0, 0)), constant_values=255) for p in panels], axis=1)
    if not cv2.imwrite(args.output, picture[..., ::-1]):
        raise SystemExit(f"{args.output} could not be written")


def annotation() -> ImageAnnotation:
    """Returns the shapes in the form that a reader returns."""
    shapes = []
    for index, (label, ring, z, hole) in enumerate(SHAPES):
        rings = [ring] if hole is None else [ring, hole]
        shapes.append(Shape(label, Polygon([rings]), f"shapes[{index}]", z=z))
    return ImageAnnotation("shapes.json", [], SIZE, shapes)


def outlines() -> np.ndarray:
    """Draws the outlines with their file position and their z."""
    canvas = np.full((*SIZE, 3), 255, np.uint8)
    for index, (label, ring, z, hole) in enumerate(SHAPES):
        color = COLORS.get(label, (120, 120, 120))
        for points in [ring] if hole is None else [ring, hole]:
            cv2.polylines(canvas, [np.round(points).astype(np.int32)], True, color, 2)
        x, y = (int(v) for v in ring.min(0) + (4, 14))
        cv2.putText(canvas, f"{index + 1} z{z:g}", (max(x, 4), y), cv2.FONT_HERSHEY_SIMPLEX, 0.4, color, 1, cv2.LINE_AA)
    return titled(canvas, "shapes: number, z")


def panel(title: str, order: str, unlabeled: str | None) -> np.ndarray:
    """Paints the shapes by one rule."""
    painted = paint(annotation(), SIZE, PaintRules(frozenset({"car", "person", "dog"}), order, True, unlabeled))
    canvas = np.full((*SIZE, 3), VOID, np.uint8)
    for number, (label, _) in painted.segments.items():
        canvas[painted.id_map == number] = COLORS.get(label, (135, 190, 235))
    return titled(canvas, title)


def titled(canvas: np.ndarray, title: str) -> np.ndarray:
    """Adds a title strip above a picture."""
    strip = np.full((20, canvas.shape[1], 3), 255, np.uint8)
    cv2.putText(strip, title, (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([strip, canvas])


if __name__ == "__main__":
    main()

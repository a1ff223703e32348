"""Scenes whose polygons are exact: the outlines of masks along the edges of pixels, and the panoptic truth."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from panoptic_fusion.data.toy.scenes import render_scene

SIZE = (64, 96)


@dataclass
class Object:
    """An area of a scene: a stuff class, or one thing. Its mask is connected by edges or, for stuff, in such parts."""

    label: str
    isthing: bool
    mask: np.ndarray  # (H, W) bool, hidden parts included
    parts: list[np.ndarray]  # masks without holes, each connected by edges


@dataclass
class TrueScene:
    """An image and its objects from back to front: stuff, then things, each by descending area."""

    image: np.ndarray
    objects: list[Object]

    def truth(self) -> np.ndarray:
        """(H, W): the number of the front-most object, from 1; 0 is void."""
        ids = np.zeros(self.image.shape[:2], int)
        for number, item in enumerate(self.objects, start=1):
            ids[item.mask] = number
        return ids


def make_scene(seed: int, size: tuple[int, int] = SIZE) -> TrueScene:
    """A toy scene; a strip at its top is void, names are in several scripts."""
    scene = render_scene(np.random.default_rng([9, seed]), size)
    names = {"car": "汽车", "sky": "Himmel über uns"}
    stuff: dict[str, np.ndarray] = {}
    things = []
    for layer in scene.layers:
        mask = layer.mask.copy()
        mask[:4] = False
        if layer.category is None or mask.sum() < 12:
            continue
        name = names.get(layer.category, layer.category)
        parts = filled_parts(mask)
        if layer.isthing:
            largest = max(parts, key=lambda part: part.sum())
            things.append(Object(name, True, largest, [largest]))
        else:
            stuff[name] = stuff.get(name, np.zeros(size, bool)) | np.any(parts, axis=0)
    areas = [Object(name, False, mask, filled_parts(mask)) for name, mask in stuff.items()]
    areas = [Object(a.label, False, np.any(a.parts, axis=0), a.parts) for a in areas]
    areas.sort(key=lambda item: -item.mask.sum())
    things.sort(key=lambda item: -item.mask.sum())
    return TrueScene(scene.image, [*areas, *things])


def filled_parts(mask: np.ndarray) -> list[np.ndarray]:
    """The parts of a mask that are connected by edges, their holes filled."""
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    parts = []
    for label in range(1, count):
        part = labels == label
        outside = np.pad(~part, 1, constant_values=True).astype(np.uint8)
        _, regions = cv2.connectedComponents(outside, connectivity=8)
        parts.append((regions != regions[0, 0])[1:-1, 1:-1])
    return parts


def outline(mask: np.ndarray) -> list[list[int]]:
    """The outline [x, y] of a mask connected by edges and without holes, along the edges of its pixels."""
    padded = np.pad(mask, 1)
    following: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for y, x in zip(*(axis.tolist() for axis in np.nonzero(mask)), strict=True):
        for there, start, end in (
            (padded[y, x + 1], (x, y), (x + 1, y)),
            (padded[y + 1, x + 2], (x + 1, y), (x + 1, y + 1)),
            (padded[y + 2, x + 1], (x + 1, y + 1), (x, y + 1)),
            (padded[y + 1, x], (x, y + 1), (x, y)),
        ):
            if not there:
                following.setdefault(start, []).append(end)
    start = min(following)
    ring, here, came = [], start, (0, 0)
    while following:
        # Where two outlines touch, turn right: then the pixel on the right stays the same part.
        ends = following[here]
        turn = (-came[1], came[0])
        end = next((e for e in ends if (e[0] - here[0], e[1] - here[1]) == turn), ends[0])
        ends.remove(end)
        if not ends:
            del following[here]
        came = (end[0] - here[0], end[1] - here[1])
        ring.append([here[0], here[1]])
        here = end
        if here == start and start not in following:
            break
    return ring


def pixel_outline(mask: np.ndarray) -> list[list[int]]:
    """The pixels [x, y] along the rim of a mask, for tools that draw the outline, too."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return max(contours, key=len)[:, 0].tolist()


def save_image(scene: TrueScene, path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(scene.image).save(path)


def agreement(scene: TrueScene, id_map: np.ndarray, segments: list[dict], names: dict[int, str]) -> float:
    """The share of pixels on which a panoptic map has the truth's object: each segment counts for one true object, the
    one of its class that it covers most."""
    truth = scene.truth()
    equal = int(((truth == 0) & (id_map == 0)).sum())
    taken = set()
    for segment in segments:
        mask = id_map == segment["id"]
        counts = np.bincount(truth[mask], minlength=len(scene.objects) + 1)
        for number, item in enumerate(scene.objects, start=1):
            if item.label != names[segment["category_id"]] or number in taken:
                counts[number] = 0
        counts[0] = 0
        best = int(counts.argmax())
        if counts[best]:
            taken.add(best)
            equal += int(counts[best])
    return equal / truth.size

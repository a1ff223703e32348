"""Renders one toy scene: a street in perspective, the objects in it, and a simulated photograph of it.

A scene is a list of layers from back to front, each with its amodal mask (its extent before occlusion by the layers in
front of it). Some scenes are designed so that ordering instances by detection score is wrong: a tie lies inside the
mask of the person who wears it, and a sign stands in front of a bus.

Shapes: H, W: height and width of the image in pixels; Hc, Wc = 2H, 2W: size of the canvas on which it is drawn.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from panoptic_fusion.data.toy import drawing as draw
from panoptic_fusion.data.toy.drawing import Brush

# Ids start at 1, have gaps, and mix things with stuff, as in real datasets.
CATEGORIES: tuple[dict, ...] = (
    {"id": 1, "name": "person", "isthing": 1, "color": [220, 20, 60]},
    {"id": 3, "name": "road", "isthing": 0, "color": [128, 64, 128]},
    {"id": 4, "name": "car", "isthing": 1, "color": [20, 20, 160]},
    {"id": 7, "name": "sky", "isthing": 0, "color": [70, 130, 180]},
    {"id": 8, "name": "tie", "isthing": 1, "color": [250, 200, 30]},
    {"id": 11, "name": "building", "isthing": 0, "color": [90, 90, 90]},
    {"id": 14, "name": "bus", "isthing": 1, "color": [20, 120, 130]},
    {"id": 17, "name": "vegetation", "isthing": 0, "color": [107, 142, 35]},
    {"id": 19, "name": "sign", "isthing": 1, "color": [235, 120, 20]},
    {"id": 21, "name": "sidewalk", "isthing": 0, "color": [244, 35, 232]},
    {"id": 24, "name": "bicycle", "isthing": 1, "color": [119, 200, 235]},
    {"id": 28, "name": "fence", "isthing": 0, "color": [190, 153, 153]},
)
CATEGORY_OF_NAME = {category["name"]: category for category in CATEGORIES}

CAMERA_HEIGHT = 2.2  # meters; a point on the ground at p pixels per meter lies CAMERA_HEIGHT * p below the horizon
MIN_VISIBLE_AREA = 40  # pixels; objects with a smaller visible area are not drawn
MIN_VISIBLE_SHARE = 0.15  # fraction of the amodal mask
MAX_THINGS = 8
SHARE_WITHOUT_THINGS = 0.05
OVERSAMPLE = 2  # canvas pixels per image pixel, along each axis


@dataclass(frozen=True)
class Layer:
    """One drawn object. ``category`` None means void: it occludes what is behind it and has no label."""

    category: str | None
    mask: np.ndarray  # (H, W) bool, amodal
    iscrowd: bool = False
    parent: int | None = None  # index of the layer this one lies on (the person for a tie, the bus for a sign)

    @property
    def isthing(self) -> bool:
        """True if the object belongs to a thing class, False for void."""
        return self.category is not None and bool(CATEGORY_OF_NAME[self.category]["isthing"])


@dataclass(frozen=True)
class Scene:
    """``image`` (H, W, 3) uint8 RGB and its layers, from back to front; every pixel is covered by at least one."""

    image: np.ndarray
    layers: list[Layer]

    def layer_map(self) -> np.ndarray:
        """Returns the index of the front-most layer at each pixel, (H, W) int32."""
        return _front_most([layer.mask for layer in self.layers])


@dataclass
class _Sprite:
    """A layer before composition: ``brush`` on the canvas, ``depth`` in pixels per meter (larger is nearer)."""

    category: str | None
    brush: Brush
    depth: float
    iscrowd: bool = False
    parent: "_Sprite | None" = None
    shadow: tuple[float, float, float, float] | None = None  # ellipse x, y, rx, ry on the canvas


class _Stage:
    """The camera and the objects in front of it; converts positions in meters to canvas pixels."""

    def __init__(self, rng: np.random.Generator, size: tuple[int, int]) -> None:
        self.rng = rng
        self.height, self.width = size[0] * OVERSAMPLE, size[1] * OVERSAMPLE
        self.unit = (
            self.height / 128
        )  # depths are pixels per meter in an image 128 pixels high; unit converts them to canvas pixels
        self.horizon = rng.uniform(0.34, 0.43) * self.height
        self.vanish_x = rng.uniform(0.36, 0.64) * self.width
        self.sprites: list[_Sprite] = []

    def ground(self, depth: float) -> float:
        """Returns the row of the ground at ``depth``."""
        return self.horizon + CAMERA_HEIGHT * depth * self.unit

    def column(self, lateral: float, depth: float) -> float:
        """Returns the column of a point ``lateral`` meters to the right of the camera."""
        return self.vanish_x + lateral * depth * self.unit

    def point(self, lateral: float, depth: float, above: float = 0.0) -> tuple[float, float]:
        return self.column(lateral, depth), self.ground(depth) - above * depth * self.unit

    def add(self, category: str | None, depth: float, **more) -> Brush:
        """Adds a sprite and returns its brush."""
        brush = Brush(self.height, self.width)
        self.sprites.append(_Sprite(category, brush, depth, **more))
        return brush

    def put(self, category: str, function: Callable, x: float, depth: float, *args, half=0.4, **more) -> _Sprite:
        """Draws ``function`` standing on the ground at column ``x``, with a shadow ``half`` meters to both sides."""
        y, ppm = self.ground(depth), depth * self.unit
        shadow = (x, y, 1.15 * half * ppm, 0.22 * ppm) if half else None
        brush = self.add(category, depth, shadow=shadow, **more)
        function(brush, self.rng, x, y, ppm, *args)
        return self.sprites[-1]


def _front_most(masks: list[np.ndarray]) -> np.ndarray:
    front = np.full(masks[0].shape, -1, np.int32)
    for index, mask in enumerate(masks):
        front[mask] = index
    return front


# ---- the street -----------------------------------------------------------------------------------------------------


def _ground_and_sky(stage: _Stage) -> tuple[draw.Color, draw.Color]:
    """Draws sky above and sidewalk below the horizon, behind all else; returns the colors (sidewalk, road)."""
    rng = stage.rng
    pavement = draw.pick(rng, ((176, 166, 152), (190, 172, 156), (164, 160, 160)))
    asphalt = draw.pick(rng, ((78, 78, 84), (92, 92, 94), (66, 68, 76)), 8)
    draw.draw_sky(stage.add("sky", 0.0), rng, stage.horizon + 4)
    brush = stage.add("sidewalk", 0.1)
    brush.rect(0, stage.horizon + 1, stage.width, stage.height, pavement)
    return pavement, asphalt


def _wall_piece(stage: _Stage, near: tuple[float, float], far: tuple[float, float], length: float) -> None:
    """Draws a building, hedge, or fence on the ground line from (lateral, depth) ``near``, its left end, to ``far``."""
    rng = stage.rng
    depth = max(near[1], far[1]) * 0.999
    kind = rng.choice(("building", "vegetation", "fence"), p=(0.55, 0.15, 0.3))

    def corners(height: float) -> list[tuple[float, float]]:
        return [stage.point(*near, height), stage.point(*far, height), stage.point(*far), stage.point(*near)]

    if kind == "building":
        floors = int(rng.integers(2, 5))
        brush = stage.add("building", depth)
        brush.warp(draw.facade(rng, floors, max(2, round(length / 1.8))), corners(floors * rng.uniform(1.7, 2.2)))
        brush.roughen(rng, 7, max(2, stage.height // 80))
        return
    brush = stage.add("vegetation", depth * 0.99)
    blobs = []
    tall = rng.uniform(1.6, 4.0)
    for t in np.linspace(0.0, 1.0, max(3, round(length / 0.9))):
        lateral, d = (1 - t) * near[0] + t * far[0], (1 - t) * near[1] + t * far[1]
        for above in np.arange(0.5, tall, 0.9):
            x, y = stage.point(lateral, d, above + rng.uniform(-0.2, 0.2))
            blobs.append((x, y, 0.85 * d * stage.unit, 0.75 * d * stage.unit))
    draw.leaves(rng, brush, blobs)
    keep = Brush(stage.height, stage.width)  # excludes everything below the ground line
    keep.poly([stage.point(*near), stage.point(*far), (stage.column(*far), -9), (stage.column(*near), -9)], (0, 0, 0))
    brush.mask &= keep.mask
    if kind == "fence":
        panel = draw.fence_panel(rng, max(4, round(length * 2.5)))
        stage.add("fence", depth).warp(panel, corners(rng.uniform(1.4, 2.0)))


def _street_along(stage: _Stage) -> Callable[[float], float]:
    """Draws a view along the street; returns a function that samples a column for a pedestrian at a depth."""
    rng = stage.rng
    pavement, asphalt = _ground_and_sky(stage)
    kerb, near = rng.uniform(2.5, 3.2), 80.0
    tiles = stage.sprites[-1].brush
    for depth in 2.4 * 1.18 ** np.arange(20):
        y = stage.ground(depth)
        tiles.line((0, y), (stage.width, y), 1, draw.tint(pavement, 0.86))
    for lateral in (-4.6, -3.9, 3.9, 4.6):
        tiles.line(stage.point(lateral, 3), stage.point(lateral, near), 1, draw.tint(pavement, 0.86))
    for side in (-1, 1):  # curbs
        edge = [stage.point(side * k, d) for k, d in ((kerb, 3), (kerb, near), (kerb + 0.25, near), (kerb + 0.25, 3))]
        tiles.poly(edge, draw.tint(pavement, 1.22))
    tiles.roughen(rng, 7, 2)
    road = stage.add("road", 0.2)
    road.poly([stage.point(side * kerb, d) for side, d in ((-1, 3), (1, 3), (1, near), (-1, near))], asphalt)
    road.roughen(rng, 8, 2)
    for depth in 3.0 * 1.5 ** np.arange(9):
        dash = (-0.07, depth), (0.07, depth), (0.07, depth * 1.25), (-0.07, depth * 1.25)
        road.poly([stage.point(*p) for p in dash], (226, 224, 214))
    for side in (-1, 1):
        line = [(0.92 * kerb, 3), (0.92 * kerb, near), (0.88 * kerb, near), (0.88 * kerb, 3)]
        road.poly([stage.point(side * u, d) for u, d in line], (214, 212, 200))

    wall = rng.uniform(4.8, 5.6)
    _wall_piece(stage, (-9.0, 3.6), (0.0, 3.6), 9)
    _wall_piece(stage, (0.0, 3.7), (9.0, 3.7), 9)
    for side in (-1, 1):
        ends = [3.9]
        while ends[-1] < 60:
            ends.append(ends[-1] * rng.uniform(1.5, 2.1))
        for far, close in zip(ends[:-1], ends[1:], strict=True):
            ends_of_piece = ((-wall, close), (-wall, far)) if side < 0 else ((wall, far), (wall, close))
            _wall_piece(stage, *ends_of_piece, length=float(rng.uniform(6, 10)))
    for _ in range(int(rng.integers(0, 3))):
        side, depth = rng.choice((-1, 1)), rng.uniform(7, 15)
        stage.put("vegetation", draw.draw_tree, stage.column(side * (kerb + 1.2), depth), depth)

    def somewhere(depth: float) -> float:
        reach = 0.46 * stage.width / (depth * stage.unit)  # meters to the border of the image
        lateral = rng.uniform(-1, 1) * min(reach, wall - 0.4)
        if rng.random() < 0.6 and reach > kerb + 0.6:
            lateral = rng.choice((-1, 1)) * rng.uniform(kerb + 0.3, min(reach, wall - 0.3))
        return float(np.clip(stage.column(lateral, depth), 0.06 * stage.width, 0.94 * stage.width))

    return somewhere


def _street_across(stage: _Stage) -> Callable[[float], float]:
    """Draws a view across the street to a row of buildings; returns the same function as `_street_along`."""
    rng = stage.rng
    pavement, asphalt = _ground_and_sky(stage)
    wall = rng.uniform(7.5, 10.0)
    kerb, close = wall * rng.uniform(1.2, 1.45), rng.uniform(27, 44)
    tiles = stage.sprites[-1].brush
    for lateral in np.arange(-24, 24, 1.2):
        tiles.line(stage.point(lateral, wall), stage.point(lateral, 60), 1, draw.tint(pavement, 0.84))
    for depth in (0.5 * (wall + kerb), close * 1.12, close * 1.26):
        tiles.line((0, stage.ground(depth)), (stage.width, stage.ground(depth)), 1, draw.tint(pavement, 0.84))
    tiles.roughen(rng, 7, 2)
    tiles.rect(0, stage.ground(kerb * 0.97), stage.width, stage.ground(kerb), draw.tint(pavement, 1.22))
    tiles.rect(0, stage.ground(close), stage.width, stage.ground(close * 1.03), draw.tint(pavement, 1.22))
    road = stage.add("road", 0.2)
    road.rect(0, stage.ground(kerb), stage.width, stage.ground(close), asphalt)
    road.roughen(rng, 8, 2)
    middle = 0.55 * kerb + 0.45 * min(close, 34)
    for lateral in np.arange(-14, 14, 2.2) + rng.uniform(0, 2):
        dash = ((lateral, middle), (lateral + 1.2, middle), (lateral + 1.2, middle * 1.06), (lateral, middle * 1.06))
        road.poly([stage.point(*p) for p in dash], (226, 224, 214))
    if rng.random() < 0.3:  # a zebra crossing
        start = rng.uniform(-4, 2)
        for depth in np.geomspace(kerb * 1.06, close * 0.92, 7):
            stripe = ((start, depth), (start + 2.4, depth), (start + 2.4, depth * 1.06), (start, depth * 1.06))
            road.poly([stage.point(*p) for p in stripe], (226, 226, 220))

    left = -stage.vanish_x / (wall * stage.unit) - rng.uniform(0, 4)
    right = (stage.width - stage.vanish_x) / (wall * stage.unit)
    while left < right:
        length = rng.uniform(4, 9)
        _wall_piece(stage, (left, wall), (left + length, wall), length)
        left += length
    for _ in range(int(rng.integers(0, 3))):
        depth = rng.uniform(wall * 1.02, kerb * 0.97)
        x = rng.uniform(0, stage.width)
        if rng.random() < 0.6:
            stage.put("vegetation", draw.draw_tree, x, depth)
        else:
            stage.put("vegetation", draw.draw_bush, x, depth, rng.uniform(1.5, 3.5), half=0)
    return lambda depth: float(rng.uniform(0.06, 0.94) * stage.width)


# ---- the objects in it ----------------------------------------------------------------------------------------------


class _Cast:
    """Adds things to the stage; every method is one recipe and returns nothing."""

    recipes = (
        # name, weight, things
        ("suit", 0.24, 2), ("person", 0.17, 1), ("pair", 0.09, 2), ("car", 0.17, 1), ("cars", 0.08, 2),
        ("bus_with_sign", 0.12, 2), ("bus", 0.03, 1), ("sign", 0.05, 1), ("bicycle", 0.05, 1), ("rider", 0.09, 2),
    )  # fmt: skip

    def __init__(self, stage: _Stage, somewhere: Callable[[float], float]) -> None:
        self.stage, self.rng, self.somewhere = stage, stage.rng, somewhere

    def fill(self, count: int) -> None:
        names, weights, things = zip(*self.recipes, strict=True)
        while count > 0:
            index = int(self.rng.choice(len(names), p=np.array(weights) / sum(weights)))
            if things[index] <= count:
                getattr(self, names[index])()
                count -= things[index]

    def _depth(self, far: float, near: float) -> float:
        return float(np.exp(self.rng.uniform(np.log(far), np.log(near))))

    def _vehicle(self, kind: str, x: float, depth: float, side_view: bool) -> _Sprite:
        function, half = {
            ("car", True): (draw.draw_car_side, 1.9), ("car", False): (draw.draw_car_front, 0.9),
            ("bus", True): (draw.draw_bus_side, 3.5), ("bus", False): (draw.draw_bus_front, 1.2),
        }[kind, side_view]  # fmt: skip
        return self.stage.put(kind, function, x, depth, half=half)

    def person(self) -> None:
        depth = self._depth(13, 34)
        self.stage.put("person", draw.draw_person, self.somewhere(depth), depth)

    def pair(self) -> None:
        """Adds two persons, one partly behind the other."""
        depth = self._depth(15, 32)
        x, beside = self.somewhere(depth), self.rng.choice((-1, 1)) * self.rng.uniform(0.35, 0.6)
        self.stage.put("person", draw.draw_person, x, depth)
        self.stage.put("person", draw.draw_person, x + beside * depth * self.stage.unit, depth * 1.05)

    def suit(self) -> None:
        """Adds a near person with a tie, always within the person's mask; sometimes only a collar without a tie."""
        depth = self._depth(31, 42)
        x = self.somewhere(depth)
        person = self.stage.put("person", draw.draw_person, x, depth, "suit")
        if self.rng.random() < 0.12:
            return
        tie = self.stage.put("tie", draw.draw_tie, x, depth, half=0, parent=person)
        tie.brush.mask &= person.brush.mask

    def car(self) -> None:
        depth = self._depth(13, 25)
        self._vehicle("car", self.somewhere(depth), depth, bool(self.rng.random() < 0.6))

    def cars(self) -> None:
        """Adds two overlapping cars."""
        depth, side_view = self._depth(13, 20), bool(self.rng.random() < 0.6)
        x, beside = self.somewhere(depth), self.rng.choice((-1, 1)) * (2.6 if side_view else 1.2)
        self._vehicle("car", x, depth, side_view)
        self._vehicle("car", x + beside * depth * self.stage.unit, depth * 1.12, side_view)

    def bus(self) -> _Sprite:
        depth = self._depth(12.5, 18)
        return self._vehicle("bus", self.somewhere(depth), depth, bool(self.rng.random() < 0.6))

    def bus_with_sign(self) -> None:
        """Adds a bus and, in front of it, a sign whose board lies within the bus."""
        bus = self.bus()
        depth = max(15.0, bus.depth * self.rng.uniform(1.08, 1.35))
        x, _, width, _ = cv2.boundingRect(bus.brush.mask)
        margin = min(0.45 * width, 0.6 * depth * self.stage.unit)
        x = self.rng.uniform(x + margin, x + width - margin)
        self.stage.put("sign", draw.draw_sign, x, depth, half=0.2, parent=bus)

    def sign(self) -> None:
        depth = self._depth(16, 27)
        self.stage.put("sign", draw.draw_sign, self.somewhere(depth), depth, half=0.2)

    def bicycle(self) -> None:
        depth = self._depth(16, 32)
        self.stage.put("bicycle", draw.draw_bicycle, self.somewhere(depth), depth, half=0.8)

    def rider(self) -> None:
        """Adds a bicycle and its rider, who occludes part of it."""
        depth = self._depth(17, 32)
        bicycle = self.stage.put("bicycle", draw.draw_bicycle, self.somewhere(depth), depth, half=0.8)
        x, _, width, _ = cv2.boundingRect(bicycle.brush.mask)
        self.stage.put("person", draw.draw_person, x + 0.48 * width, depth * 1.001, "rider", half=0)

    def crowd(self) -> None:
        """Adds a group of distant persons that an annotator would not outline separately: one crowd segment."""
        depth = self._depth(12, 15)
        x = self.somewhere(depth)
        brush = self.stage.add("person", depth, iscrowd=True)
        for place in self.rng.permutation(int(self.rng.integers(5, 9))):
            ppm = depth * self.stage.unit * self.rng.uniform(0.92, 1.08)
            draw.draw_person(brush, self.rng, x + (place - 3) * 0.42 * ppm, self.stage.ground(depth), ppm)

    def unlabelled(self) -> None:
        """Adds an object without a class: a heap under a sheet, or a container. Void."""
        depth = self._depth(12, 24)
        x, y, ppm = self.somewhere(depth), self.stage.ground(depth), depth * self.stage.unit
        brush = self.stage.add(None, depth, shadow=(x, y, 0.8 * ppm, 0.2 * ppm))
        color = draw.pick(self.rng, ((150, 110, 150), (120, 150, 150), (190, 170, 110)))
        xs = np.linspace(-0.7, 0.7, 6)
        top = [(x + u * ppm, y - self.rng.uniform(0.5, 1.1) * ppm) for u in xs]
        brush.poly([(x - 0.7 * ppm, y), *top, (x + 0.7 * ppm, y)], color)
        for u in xs[1:-1]:
            brush.line((x + u * ppm, y), (x + 0.8 * u * ppm, y - 0.5 * ppm), 0.06 * ppm, draw.tint(color, 0.7))

    def own_car(self) -> None:
        """Adds the hood of the car that carries the camera, at the lower border, in front of all else. Void."""
        stage, color = self.stage, draw.pick(self.rng, ((30, 32, 38), (70, 72, 78), (52, 40, 44)))
        brush = stage.add(None, 1e6)
        high = self.rng.uniform(0.05, 0.1) * stage.height
        brush.ellipse(stage.width / 2, stage.height + high, 0.6 * stage.width, 2 * high, color)
        color = draw.tint(color, 1.3)
        brush.ellipse(stage.width / 2, stage.height + 1.3 * high, 0.45 * stage.width, 1.8 * high, color)


class _ClassFreeCast(_Cast):
    """Adds things whose depth does not depend on their class, mostly in pairs that overlap in either order."""

    recipes = (("overlapping", 0.8, 2), ("single", 0.2, 1))
    by_width = ("sign", "person", "bicycle", "car", "bus")  # narrow to wide

    def overlapping(self) -> None:
        """Adds two things of different classes, the narrower one at an end of the other; either may be in front.

        About half of the narrower one overlaps the other in both orders, so that none is too hidden to be drawn.
        """
        narrow, wide = sorted(self.rng.choice(len(self.by_width), 2, replace=False).tolist())
        back = self._depth(14, 22)
        depths = [back, back * self.rng.uniform(1.1, 1.4)]
        if self.rng.random() < 0.5:
            depths.reverse()
        large = self._thing(self.by_width[wide], self.somewhere(depths[1]), depths[1])
        x, _, width, _ = cv2.boundingRect(large.brush.mask)
        ends = [end for end in (x, x + width) if 0.05 < end / self.stage.width < 0.95] or [x + width / 2]
        self._thing(self.by_width[narrow], float(self.rng.choice(ends)), depths[0])

    def single(self) -> None:
        depth = self._depth(14, 28)
        self._thing(str(self.rng.choice(self.by_width)), self.somewhere(depth), depth)

    def _thing(self, name: str, x: float, depth: float) -> _Sprite:
        if name in ("car", "bus"):
            return self._vehicle(name, x, depth, bool(self.rng.random() < 0.6))
        function, half = {
            "sign": (draw.draw_sign, 0.2), "person": (draw.draw_person, 0.4), "bicycle": (draw.draw_bicycle, 0.8)
        }[name]  # fmt: skip
        return self.stage.put(name, function, x, depth, half=half)


CASTS = {"by-class": _Cast, "class-free": _ClassFreeCast}
"""Things of a scene, by the name of how their depth is decided: the argument `depth` of `render_scene`."""


# ---- one scene ------------------------------------------------------------------------------------------------------


def _amodal_mask(sprite: _Sprite, size: tuple[int, int]) -> np.ndarray:
    """Returns the mask (H, W) of the pixels that the sprite covers by at least half."""
    return cv2.resize(sprite.brush.mask, (size[1], size[0]), interpolation=cv2.INTER_AREA) >= 128


def _cull(sprites: list[_Sprite], size: tuple[int, int]) -> tuple[list[_Sprite], list[np.ndarray]]:
    """Removes things with too small a visible part, and their ties; returns the remaining sprites and their masks."""
    masks = [_amodal_mask(sprite, size) for sprite in sprites]
    for sprite, mask in zip(sprites, masks, strict=True):
        if sprite.category == "tie":  # after rounding to pixels, keeps the tie within the person
            mask &= masks[next(i for i, s in enumerate(sprites) if s is sprite.parent)]
    visible = np.bincount(_front_most(masks).ravel() + 1, minlength=len(masks) + 1)[1:]
    shown, shown_masks = [], []
    for sprite, mask, area in zip(sprites, masks, visible, strict=True):
        isthing = sprite.category is not None and CATEGORY_OF_NAME[sprite.category]["isthing"]
        least = max(MIN_VISIBLE_AREA, MIN_VISIBLE_SHARE * mask.sum()) if isthing else 0
        orphan = sprite.category == "tie" and not any(sprite.parent is s for s in shown)
        if area >= least and not orphan:
            shown.append(sprite)
            shown_masks.append(mask)
    return shown, shown_masks


def _photograph(rng: np.random.Generator, canvas: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes the canvas to image size and simulates lighting: brightness, color cast, gradient, blur, sensor noise."""
    image = cv2.resize(canvas, (size[1], size[0]), interpolation=cv2.INTER_AREA).astype(np.float32)
    if rng.random() < 0.25:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 0.8))
    light = rng.uniform(0.6, 1.18) * rng.uniform(0.92, 1.08, 3)
    slope = np.linspace(1 - rng.uniform(0, 0.15), 1, size[1])[:: int(rng.choice((-1, 1)))]
    image *= (light * slope[:, None]).astype(np.float32)
    image += rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(2, 7))
    return np.clip(image + 0.5, 0, 255).astype(np.uint8)


def render_scene(rng: np.random.Generator, size: tuple[int, int] = (128, 192), depth: str = "by-class") -> Scene:
    """Renders one scene of ``size`` = (H, W). The same state of ``rng`` gives the same scene.

    With ``depth`` "by-class", the classes of two overlapping things mostly tell which one is in front: a tie is in
    front of its person, a sign in front of a bus. With "class-free", the depth is drawn independently of the class. The
    thing in front still stands lower in the image. Ties are left out, because a tie is in front of its person.

    An image holds either no thing (a fraction `SHARE_WITHOUT_THINGS` of the images) or up to `MAX_THINGS`, not counting
    crowds. A thing is drawn only if at least `MIN_VISIBLE_AREA` pixels and `MIN_VISIBLE_SHARE` of its mask are visible.
    """
    stage = _Stage(rng, size)
    somewhere = (_street_across if rng.random() < 0.5 else _street_along)(stage)
    cast = CASTS[depth](stage, somewhere)
    if rng.random() >= SHARE_WITHOUT_THINGS:
        cast.fill(int(rng.integers(4, MAX_THINGS + 1)))
        if rng.random() < 0.12:
            cast.crowd()
    if rng.random() < 0.15:
        cast.unlabelled()
    if rng.random() < 0.2:
        cast.own_car()
    sprites, masks = _cull(sorted(stage.sprites, key=lambda sprite: sprite.depth), size)
    canvas = np.zeros((stage.height, stage.width, 3), np.uint8)
    shade = np.empty((stage.height, stage.width), np.uint8)
    for sprite in sprites:
        if sprite.shadow is not None:
            x, y, rx, ry = sprite.shadow
            shade[:] = 0
            cv2.ellipse(shade, (round(x), round(y)), (max(1, round(rx)), max(1, round(ry))), 0, 0, 360, 255, -1)
            cv2.copyTo((canvas >> 1) + (canvas >> 3), shade, canvas)
        cv2.copyTo(sprite.brush.color, sprite.brush.mask, canvas)
    index_of = {id(sprite): index for index, sprite in enumerate(sprites)}
    layers = [
        Layer(sprite.category, mask, sprite.iscrowd, index_of.get(id(sprite.parent)))
        for sprite, mask in zip(sprites, masks, strict=True)
    ]
    return Scene(_photograph(rng, canvas, size), layers)

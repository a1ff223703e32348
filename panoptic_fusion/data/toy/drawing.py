"""Drawing primitives of the toy scenes: a brush that draws color and mask together, textures, stuff, and things.

All shapes are drawn on a canvas (Hc, Wc), uint8 RGB, in pixels (x to the right, y down). Functions that draw a thing
take the ground point ``(x, y)`` below its center and a scale ``ppm`` (pixels per meter), so that perspective is
computed by the caller.
"""

import cv2
import numpy as np

Color = tuple[int, int, int]

PAINTS: tuple[Color, ...] = (
    (196, 40, 38), (38, 78, 178), (232, 232, 226), (150, 156, 164), (38, 38, 44),
    (236, 188, 40), (40, 124, 76), (60, 160, 176), (206, 112, 40), (122, 52, 128),
)  # fmt: skip
WALLS: tuple[Color, ...] = (
    (168, 92, 70), (206, 184, 146), (150, 146, 144), (198, 154, 96), (184, 138, 130), (124, 110, 104), (214, 206, 190),
)  # fmt: skip
SKINS: tuple[Color, ...] = ((240, 202, 172), (212, 160, 120), (156, 104, 72), (104, 68, 48))
HAIRS: tuple[Color, ...] = ((40, 30, 26), (96, 62, 36), (196, 156, 84), (150, 146, 142), (140, 66, 36))
TROUSERS: tuple[Color, ...] = ((36, 42, 66), (52, 50, 50), (92, 84, 72), (44, 66, 110), (116, 100, 78))
SUITS: tuple[Color, ...] = ((34, 36, 46), (44, 54, 84), (84, 84, 90), (88, 66, 52))
TIES: tuple[Color, ...] = ((206, 34, 44), (38, 96, 196), (240, 190, 40), (44, 140, 84), (150, 50, 150), (230, 120, 40))


class Brush:
    """Brush that draws shapes both on ``color`` (Hc, Wc, 3) uint8 and on ``mask`` (Hc, Wc) uint8 (0 or 255)."""

    def __init__(self, height: int, width: int) -> None:
        self.color = np.zeros((height, width, 3), np.uint8)
        self.mask = np.zeros((height, width), np.uint8)

    def poly(self, points, color: Color) -> None:
        """Draws a filled polygon with corners ``points`` (N, 2)."""
        points = [np.round(np.asarray(points, np.float64)).astype(np.int32)]
        cv2.fillPoly(self.color, points, color)
        cv2.fillPoly(self.mask, points, 255)

    def rect(self, x0: float, y0: float, x1: float, y1: float, color: Color) -> None:
        """Draws a filled rectangle."""
        self.poly([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], color)

    def ellipse(self, x: float, y: float, rx: float, ry: float, color: Color, start=0, stop=360) -> None:
        """Draws a filled ellipse with center (x, y), or its sector between two angles in degrees."""
        center, axes = (round(x), round(y)), (max(1, round(rx)), max(1, round(ry)))
        cv2.ellipse(self.color, center, axes, 0, start, stop, color, -1)
        cv2.ellipse(self.mask, center, axes, 0, start, stop, 255, -1)

    def line(self, start: tuple[float, float], stop: tuple[float, float], width: float, color: Color) -> None:
        """Draws a line of ``width`` pixels, at least 1."""
        ends = (round(start[0]), round(start[1])), (round(stop[0]), round(stop[1]))
        cv2.line(self.color, *ends, color, max(1, round(width)))
        cv2.line(self.mask, *ends, 255, max(1, round(width)))

    def warp(self, texture: np.ndarray, corners) -> None:
        """Draws ``texture`` (h, w, 3) between ``corners``: top left, top right, bottom right, bottom left."""
        corners = np.asarray(corners, np.float64)
        height, width = self.mask.shape
        x0, y0 = np.clip(np.floor(corners.min(0)), 0, (width, height)).astype(int).tolist()
        x1, y1 = np.clip(np.ceil(corners.max(0)) + 1, 0, (width, height)).astype(int).tolist()
        if x0 >= x1 or y0 >= y1:
            return
        h, w = texture.shape[:2]
        local = corners - (x0, y0)
        source = np.array([(0, 0), (w, 0), (w, h), (0, h)], np.float32)
        matrix = cv2.getPerspectiveTransform(source, local.astype(np.float32))
        warped = cv2.warpPerspective(texture, matrix, (x1 - x0, y1 - y0), borderMode=cv2.BORDER_REPLICATE)
        area = np.zeros((y1 - y0, x1 - x0), np.uint8)
        cv2.fillPoly(area, [np.round(local).astype(np.int32)], 255)
        self.color[y0:y1, x0:x1][area > 0] = warped[area > 0]
        self.mask[y0:y1, x0:x1] |= area

    def roughen(self, rng: np.random.Generator, amount: float, cell: int) -> None:
        """Adds smooth brightness noise (standard deviation ``amount``, in gray levels) of ``cell`` pixels."""
        x, y, w, h = cv2.boundingRect(self.mask)
        if w and h:
            area = self.color[y : y + h, x : x + w]
            noise = smooth_noise(rng, (h, w), cell) * amount
            area[:] = np.clip(area + noise[..., None], 0, 255)


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cell: int) -> np.ndarray:
    """Returns (h, w) float32 noise of unit variance at grid points ``cell`` pixels apart, interpolated in between."""
    coarse = rng.standard_normal((shape[0] // cell + 2, shape[1] // cell + 2)).astype(np.float32)
    return cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)


def pick(rng: np.random.Generator, palette: tuple[Color, ...], jitter: int = 14) -> Color:
    """Returns a random color of ``palette``, each channel shifted by up to ``jitter``."""
    color = np.array(palette[int(rng.integers(len(palette)))]) + rng.integers(-jitter, jitter + 1, 3)
    return tuple(int(c) for c in np.clip(color, 8, 247))


def tint(color: Color, factor: float) -> Color:
    """Returns ``color`` made darker (factor < 1) or lighter (factor > 1)."""
    return tuple(int(min(255, c * factor)) for c in color)


# ---- stuff ----------------------------------------------------------------------------------------------------------


def draw_sky(brush: Brush, rng: np.random.Generator, bottom: float) -> None:
    """Draws a vertical gradient with clouds, down to row ``bottom``."""
    tops = ((70, 130, 210), (110, 160, 220), (150, 170, 190), (120, 110, 160), (80, 150, 200))
    lows = ((190, 215, 240), (225, 232, 240), (205, 210, 214), (250, 190, 150), (230, 230, 215))
    choice = int(rng.integers(len(tops)))
    height, width = brush.mask.shape
    rows = max(1, round(bottom))
    t = np.linspace(0, 1, rows, dtype=np.float32)[:, None, None]
    sky = (1 - t) * np.float32(tops[choice]) + t * np.float32(lows[choice])
    cell = max(4, height // 10)
    field = smooth_noise(rng, (rows, width), cell) + 0.5 * smooth_noise(rng, (rows, width), cell // 2)
    cloud = np.clip(field - rng.uniform(0.2, 1.2), 0, 0.8)[..., None]
    brush.color[:rows] = (sky * (1 - cloud) + 250 * cloud).astype(np.uint8)
    brush.mask[:rows] = 255


def facade(rng: np.random.Generator, floors: int, columns: int, cell: int = 20) -> np.ndarray:
    """Returns a wall with windows: (floors * cell, columns * cell, 3) uint8."""
    wall = pick(rng, WALLS)
    image = np.empty((floors * cell, columns * cell, 3), np.uint8)
    image[:] = wall
    if rng.random() < 0.5:  # courses of bricks
        image[::4] = tint(wall, 0.88)
    pane = pick(rng, ((60, 80, 104), (44, 50, 60), (96, 120, 140)))
    margin = cell // 4 + int(rng.integers(0, 2))
    shop = rng.random() < 0.5
    for floor in range(floors):
        for column in range(columns):
            x, y = column * cell, floor * cell
            color = (244, 214, 130) if rng.random() < 0.12 else pane
            if shop and floor == floors - 1:
                cv2.rectangle(image, (x + 2, y + 6), (x + cell - 3, y + cell - 2), tint(pane, 1.2), -1)
                continue
            corners = (x + margin, y + margin - 1), (x + cell - margin, y + cell - margin + 1)
            cv2.rectangle(image, *corners, tint(wall, 1.25), -1)
            cv2.rectangle(image, *(np.array(corners) + [[1], [-1]]).tolist(), color, -1)
    if shop:  # an awning or a name board above the shop windows
        y = (floors - 1) * cell
        cv2.rectangle(image, (0, y), (columns * cell, y + 5), pick(rng, PAINTS), -1)
    cv2.rectangle(image, (0, 0), (columns * cell, 3), tint(wall, 0.62), -1)
    image[:, -2:] = tint(wall, 0.7)
    return image


def fence_panel(rng: np.random.Generator, columns: int) -> np.ndarray:
    """Returns a picket fence: (32, columns * 8, 3) uint8; the gaps belong to it."""
    wood = pick(rng, ((240, 236, 226), (166, 116, 70), (206, 190, 160)))
    image = np.empty((32, columns * 8, 3), np.uint8)
    image[:] = tint(wood, 0.42)
    for column in range(columns):
        image[:, column * 8 : column * 8 + 5] = wood
    image[7:11], image[22:26] = tint(wood, 0.85), tint(wood, 0.85)
    return image


def leaves(rng: np.random.Generator, brush: Brush, blobs: list[tuple[float, float, float, float]]) -> None:
    """Draws a tree crown or a bush: ``blobs`` (x, y, rx, ry) in greens, with a leafy texture."""
    green = pick(rng, ((58, 116, 48), (84, 136, 52), (44, 92, 56), (112, 130, 50)))
    for x, y, rx, ry in blobs:
        brush.ellipse(x, y, rx, ry, tint(green, rng.uniform(0.8, 1.1)))
    for x, y, rx, ry in blobs:
        for _ in range(4):
            dx, dy = rng.uniform(-0.6, 0.6, 2)
            brush.ellipse(x + dx * rx, y + dy * ry, 0.22 * rx, 0.2 * ry, tint(green, rng.uniform(0.7, 1.35)))
    brush.roughen(rng, 16, max(2, brush.mask.shape[0] // 100))


def draw_tree(brush: Brush, rng: np.random.Generator, x: float, y: float, ppm: float) -> None:
    """Draws a tree of about 4 m: trunk and crown."""
    top = y - rng.uniform(3.4, 4.6) * ppm
    brush.line((x, y), (x, top + 1.2 * ppm), 0.32 * ppm, pick(rng, ((104, 78, 56), (84, 66, 54))))
    crown = [(x, top + 0.95 * ppm, 1.1 * ppm, 1.0 * ppm)]
    for side in (-1, 1):
        crown.append((x + side * rng.uniform(0.5, 0.9) * ppm, top + rng.uniform(1.1, 1.6) * ppm, 0.8 * ppm, 0.7 * ppm))
    leaves(rng, brush, crown)


def draw_bush(brush: Brush, rng: np.random.Generator, x: float, y: float, ppm: float, length: float) -> None:
    """Draws a hedge of ``length`` meters, about 1 m high."""
    steps = max(2, round(length / 0.6))
    xs = x + np.linspace(-0.5, 0.5, steps) * length * ppm
    blobs = [(float(b), y - 0.5 * ppm, 0.6 * ppm, rng.uniform(0.5, 0.75) * ppm) for b in xs]
    leaves(rng, brush, blobs)
    brush.mask[min(len(brush.mask), max(0, round(y))) :] = 0


# ---- things ---------------------------------------------------------------------------------------------------------


def draw_wheel(brush: Brush, x: float, y: float, radius: float) -> None:
    """Draws a wheel with its center at (x, y): a tire and a rim."""
    brush.ellipse(x, y, radius, radius, (26, 26, 28))
    brush.ellipse(x, y, 0.5 * radius, 0.5 * radius, (150, 150, 154))


def draw_car_side(brush: Brush, rng: np.random.Generator, x: float, y: float, ppm: float) -> None:
    """Draws a car of 3.8 x 1.45 m seen from the side."""
    paint, flip = pick(rng, PAINTS), 1 if rng.random() < 0.5 else -1
    boxy = rng.random() < 0.35

    def at(u: float, v: float) -> tuple[float, float]:
        return x + flip * u * ppm, y - v * ppm

    roof = [(-1.35, 0.8), (-0.8, 1.4), (0.4, 1.4), (1.1, 0.82)]
    if boxy:
        roof = [(-1.6, 0.8), (-1.45, 1.45), (0.5, 1.45), (1.1, 0.85)]
    brush.poly([at(*p) for p in roof], tint(paint, 0.92))
    brush.poly([at(*p) for p in ((-1.9, 0.25), (-1.9, 0.8), (-1.7, 0.9), (1.2, 0.88), (1.85, 0.7), (1.9, 0.25))], paint)
    glass = (66, 86, 104)
    left, right = (-1.35, -0.3) if boxy else (-0.95, -0.3)
    brush.poly([at(left, 0.86), at(left * 0.85, 1.32), at(right, 1.32), at(right, 0.86)], glass)
    brush.poly([at(-0.18, 0.86), at(-0.18, 1.32), at(0.36, 1.32), at(0.86, 0.86)], glass)
    brush.rect(*at(-1.9, 0.38), *at(1.9, 0.25), tint(paint, 0.6))
    brush.line(at(-0.22, 0.85), at(-0.22, 0.4), 0.05 * ppm, tint(paint, 0.7))
    brush.ellipse(*at(1.78, 0.62), 0.1 * ppm, 0.09 * ppm, (255, 246, 190))
    brush.ellipse(*at(-1.82, 0.66), 0.08 * ppm, 0.1 * ppm, (220, 40, 30))
    for u in (-1.15, 1.15):
        draw_wheel(brush, *at(u, 0.32), 0.34 * ppm)


def draw_car_front(brush: Brush, rng: np.random.Generator, x: float, y: float, ppm: float) -> None:
    """Draws a car of 1.75 x 1.45 m seen from the front or from behind."""
    paint, rear = pick(rng, PAINTS), rng.random() < 0.5

    def box(u0: float, v0: float, u1: float, v1: float, color: Color) -> None:
        brush.rect(x + u0 * ppm, y - v0 * ppm, x + u1 * ppm, y - v1 * ppm, color)

    for u in (-0.68, 0.68):
        box(u - 0.14, 0.45, u + 0.14, 0.0, (24, 24, 26))
    shape = ((-0.8, 0.85), (-0.6, 1.42), (0.6, 1.42), (0.8, 0.85))
    brush.poly([(x + u * ppm, y - v * ppm) for u, v in shape], tint(paint, 0.9))
    shape = ((-0.68, 0.88), (-0.52, 1.34), (0.52, 1.34), (0.68, 0.88))
    brush.poly([(x + u * ppm, y - v * ppm) for u, v in shape], (60, 78, 96))
    box(-0.87, 0.88, 0.87, 0.25, paint)
    box(-0.87, 0.4, 0.87, 0.22, tint(paint, 0.6))
    box(-0.3, 0.66 if rear else 0.62, 0.3, 0.44, (240, 240, 232) if rear else (30, 30, 34))
    for u in (-0.66, 0.66):
        lamp = (214, 36, 30) if rear else (255, 248, 200)
        brush.ellipse(x + u * ppm, y - 0.64 * ppm, 0.17 * ppm, 0.12 * ppm, lamp)


def draw_bus_side(brush: Brush, rng: np.random.Generator, x: float, y: float, ppm: float) -> None:
    """Draws a bus of 7 x 2.9 m seen from the side."""
    paint, flip = pick(rng, PAINTS), 1 if rng.random() < 0.5 else -1

    def box(u0: float, v0: float, u1: float, v1: float, color: Color) -> None:
        brush.rect(x + flip * u0 * ppm, y - v0 * ppm, x + flip * u1 * ppm, y - v1 * ppm, color)

    box(-3.5, 2.9, 3.5, 0.35, paint)
    box(-3.5, 2.9, 3.5, 2.72, tint(paint, 1.25))
    box(-3.5, 0.55, 3.5, 0.35, tint(paint, 0.55))
    box(-3.5, 1.25, 3.5, 1.1, pick(rng, PAINTS))
    for u in np.arange(-3.2, 1.7, 1.0):
        box(u, 2.5, u + 0.85, 1.5, (58, 78, 100))
    box(2.0, 2.5, 2.75, 0.5, (40, 54, 70))
    box(2.95, 2.55, 3.5, 1.3, (70, 94, 116))
    box(3.35, 0.95, 3.5, 0.7, (255, 246, 190))
    if rng.random() < 0.4:  # an advertisement: part of the bus, although it resembles a sign
        box(-2.6, 1.06, -0.9, 0.6, pick(rng, PAINTS))
    for u in (-2.1, 2.0):
        draw_wheel(brush, x + flip * u * ppm, y - 0.42 * ppm, 0.46 * ppm)


def draw_bus_front(brush: Brush, rng: np.random.Generator, x: float, y: float, ppm: float) -> None:
    """Draws a bus of 2.4 x 2.9 m seen from the front."""
    paint = pick(rng, PAINTS)

    def box(u0: float, v0: float, u1: float, v1: float, color: Color) -> None:
        brush.rect(x + u0 * ppm, y - v0 * ppm, x + u1 * ppm, y - v1 * ppm, color)

    for u in (-0.9, 0.9):
        box(u - 0.17, 0.45, u + 0.17, 0.0, (24, 24, 26))
    box(-1.2, 2.9, 1.2, 0.28, paint)
    box(-0.9, 2.82, 0.9, 2.55, (26, 26, 30))
    box(-0.6, 2.76, 0.6, 2.61, (250, 180, 50))
    box(-1.05, 2.45, 1.05, 1.3, (58, 78, 100))
    box(-0.03, 2.45, 0.03, 1.3, tint(paint, 0.7))
    box(-1.2, 0.5, 1.2, 0.28, tint(paint, 0.55))
    for u in (-0.9, 0.9):
        brush.ellipse(x + u * ppm, y - 0.75 * ppm, 0.18 * ppm, 0.16 * ppm, (255, 246, 196))


def draw_bicycle(brush: Brush, rng: np.random.Generator, x: float, y: float, ppm: float) -> None:
    """Draws a bicycle of 1.75 x 1.05 m seen from the side; the wheels are discs that include spokes and gaps."""
    paint, flip = pick(rng, PAINTS), 1 if rng.random() < 0.5 else -1

    def at(u: float, v: float) -> tuple[float, float]:
        return x + flip * u * ppm, y - v * ppm

    for u in (-0.52, 0.52):
        brush.ellipse(*at(u, 0.35), 0.36 * ppm, 0.36 * ppm, (22, 22, 24))
        brush.ellipse(*at(u, 0.35), 0.27 * ppm, 0.27 * ppm, (168, 170, 168))
        for angle in np.arange(0, np.pi, np.pi / 4):
            du, dv = 0.26 * np.cos(angle), 0.26 * np.sin(angle)
            brush.line(at(u - du, 0.35 - dv), at(u + du, 0.35 + dv), 0.03 * ppm, (90, 90, 90))
        brush.ellipse(*at(u, 0.35), 0.07 * ppm, 0.07 * ppm, (30, 30, 30))
    bar = 0.11 * ppm
    hub, saddle, head, pedals = (-0.52, 0.35), (-0.2, 0.75), (0.36, 0.8), (-0.05, 0.32)
    frame = (hub, saddle), (saddle, head), (head, pedals), (pedals, saddle), (hub, pedals), ((0.52, 0.35), (0.32, 0.98))
    for start, stop in frame:
        brush.line(at(*start), at(*stop), bar, paint)
    brush.line(at(-0.36, 0.92), at(-0.06, 0.92), 0.13 * ppm, (30, 28, 28))
    brush.line(at(-0.2, 0.75), at(-0.22, 0.92), bar, paint)
    brush.line(at(0.18, 1.02), at(0.42, 0.98), 0.1 * ppm, (34, 34, 36))


def draw_sign(brush: Brush, rng: np.random.Generator, x: float, y: float, ppm: float) -> None:
    """Draws a traffic sign on a post, 2.3 m high, with a board 0.8 m wide; post and board are one thing."""
    brush.line((x, y), (x, y - 1.7 * ppm), 0.17 * ppm, (130, 134, 138))
    cx, cy, r, kind = x, y - 1.9 * ppm, 0.42 * ppm, int(rng.integers(5))
    red, white, blue = pick(rng, ((206, 28, 34),)), (246, 246, 242), pick(rng, ((28, 88, 190),))
    if kind == 0:  # no entry
        brush.ellipse(cx, cy, r, r, white)
        brush.ellipse(cx, cy, 0.88 * r, 0.88 * r, red)
        brush.rect(cx - 0.6 * r, cy - 0.18 * r, cx + 0.6 * r, cy + 0.18 * r, white)
    elif kind == 1:  # speed limit
        brush.ellipse(cx, cy, r, r, red)
        brush.ellipse(cx, cy, 0.68 * r, 0.68 * r, white)
        brush.rect(cx - 0.4 * r, cy - 0.3 * r, cx - 0.1 * r, cy + 0.3 * r, (20, 20, 20))
        brush.rect(cx + 0.1 * r, cy - 0.3 * r, cx + 0.4 * r, cy + 0.3 * r, (20, 20, 20))
    elif kind == 2:  # warning
        brush.poly([(cx, cy - 1.1 * r), (cx + 1.1 * r, cy + 0.8 * r), (cx - 1.1 * r, cy + 0.8 * r)], red)
        brush.poly([(cx, cy - 0.6 * r), (cx + 0.66 * r, cy + 0.55 * r), (cx - 0.66 * r, cy + 0.55 * r)], white)
    elif kind == 3:  # parking
        brush.rect(cx - 0.95 * r, cy - 0.95 * r, cx + 0.95 * r, cy + 0.95 * r, white)
        brush.rect(cx - 0.82 * r, cy - 0.82 * r, cx + 0.82 * r, cy + 0.82 * r, blue)
        brush.rect(cx - 0.4 * r, cy - 0.55 * r, cx - 0.12 * r, cy + 0.6 * r, white)
        brush.ellipse(cx + 0.02 * r, cy - 0.2 * r, 0.38 * r, 0.36 * r, white)
    else:  # stop
        angles = np.pi / 8 + np.arange(8) * np.pi / 4
        brush.poly([(cx + 1.05 * r * np.cos(a), cy + 1.05 * r * np.sin(a)) for a in angles], white)
        brush.poly([(cx + 0.92 * r * np.cos(a), cy + 0.92 * r * np.sin(a)) for a in angles], red)
        brush.rect(cx - 0.6 * r, cy - 0.14 * r, cx + 0.6 * r, cy + 0.2 * r, white)


def draw_person(brush: Brush, rng: np.random.Generator, x: float, y: float, ppm: float, dress: str = "plain") -> None:
    """Draws a person of 1.75 m, on foot or (``dress="rider"``) on a bicycle; use ``dress="suit"`` with a tie."""
    skin, hair = pick(rng, SKINS), pick(rng, HAIRS)
    suit = dress == "suit"
    coat, legs = (pick(rng, SUITS), ()) if suit else (pick(rng, PAINTS), pick(rng, TROUSERS))
    legs = legs or tint(coat, 0.85)
    wide, lean = (0.33 if suit else 0.25) * rng.uniform(0.95, 1.1), 0.0
    stride, swing = rng.uniform(0.03, 0.2), rng.uniform(0.0, 0.2)

    def at(u: float, v: float) -> tuple[float, float]:
        return x + u * ppm, y - v * ppm

    hip, shoulder = 0.82, 1.42
    if dress == "rider":
        for u, v in ((0.12, 0.2), (-0.1, 0.32)):
            brush.line(at(-0.2, 0.92), at(0.14, 0.7), 0.19 * ppm, legs)
            brush.line(at(0.14, 0.7), at(u, v), 0.16 * ppm, tint(legs, 0.85))
        hip, shoulder, lean, swing = 0.9, 1.48, 0.12, 0.0
        brush.line(at(0.0, 1.38), at(0.34, 1.02), 0.13 * ppm, tint(coat, 0.8))
    else:
        for side in (-1, 1):
            foot = at(side * (0.08 + stride), 0.03)
            brush.line(at(side * 0.09, hip), foot, 0.19 * ppm, tint(legs, 1.0 if side > 0 else 0.85))
            brush.ellipse(foot[0] + 0.03 * ppm, foot[1], 0.12 * ppm, 0.06 * ppm, (34, 28, 26))
            hand = at(side * (wide + 0.06 + swing), 0.82)
            brush.line(at(side * (wide - 0.03), shoulder - 0.1), hand, 0.14 * ppm, tint(coat, 0.82))
            brush.ellipse(*hand, 0.08 * ppm, 0.08 * ppm, skin)
    u = -0.22 if dress == "rider" else 0.0
    body = (u - 0.75 * wide, hip - 0.06), (u + 0.75 * wide, hip - 0.06), (lean + wide, shoulder - 0.04)
    body += (lean + 0.6 * wide, shoulder + 0.04), (lean - 0.6 * wide, shoulder + 0.04), (lean - wide, shoulder - 0.04)
    brush.poly([at(*p) for p in body], coat)
    if suit:
        brush.poly([at(-0.19, 1.44), at(0.19, 1.44), at(0.07, 0.9), at(-0.07, 0.9)], (238, 238, 234))
    elif dress == "plain" and rng.random() < 0.4:  # a stripe, a zip or a bag strap: resembles a tie but is not one
        brush.line(at(-0.12, 1.4), at(rng.uniform(-0.1, 0.15), 0.84), 0.08 * ppm, pick(rng, TIES))
    brush.rect(*at(lean - 0.07, shoulder + 0.12), *at(lean + 0.07, shoulder - 0.02), tint(skin, 0.85))
    brush.ellipse(*at(lean, shoulder + 0.2), 0.145 * ppm, 0.17 * ppm, skin)
    brush.ellipse(*at(lean, shoulder + 0.24), 0.15 * ppm, 0.14 * ppm, hair, 180, 360)
    if rng.random() < 0.3:  # long hair
        for side in (-1, 1):
            brush.line(at(lean + side * 0.13, shoulder + 0.24), at(lean + side * 0.15, shoulder), 0.07 * ppm, hair)


def draw_tie(brush: Brush, rng: np.random.Generator, x: float, y: float, ppm: float) -> None:
    """Draws the tie of a person in a suit at the same ``(x, y, ppm)``: 0.26 m wide (cartoon style) and 0.55 m long."""
    color = pick(rng, TIES)

    def at(u: float, v: float) -> tuple[float, float]:
        return x + u * ppm, y - v * ppm

    brush.poly([at(-0.1, 1.44), at(0.1, 1.44), at(0.07, 1.32), at(-0.07, 1.32)], tint(color, 0.75))
    brush.poly([at(-0.07, 1.32), at(0.07, 1.32), at(0.13, 1.0), at(0.0, 0.88), at(-0.13, 1.0)], color)
    if rng.random() < 0.5:
        for v in (1.2, 1.06):
            brush.line(at(-0.07, v - 0.04), at(0.07, v + 0.04), 0.04 * ppm, tint(color, 1.5))

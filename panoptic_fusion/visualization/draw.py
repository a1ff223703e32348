"""Draws panoptic maps over images with OpenCV: colors of classes and instances, white borders, names, hatched void.

detectron2's Visualizer can also draw this project's outputs. These functions are for small images, panels and large
numbers of figures, for which matplotlib takes most of the time.
"""

import colorsys
from typing import Any

import cv2
import numpy as np

from panoptic_fusion.data.annotation import label_extents, read_id_map

SHADES = (0.0, 0.22, -0.2, 0.11, -0.1, 0.3, -0.3)  # changes of lightness that the instances of one class cycle through

STRIP_PIXELS = 2**18  # pixels that are blended at a time

MAX_SIDE = 4096  # maximum side of a picture, in pixels; larger images are reduced

PLAIN_SIDE = 960  # longer side, in pixels, up to which lines are 1 pixel wide; they and the text grow from there on

HATCH = (160, 160, 160)  # color of the lines over void

GAP = 4  # width of the white gap between two panels, in pixels

HATCH_PERIOD = 8  # distance between these lines along a row, in line widths


def draw_panoptic(
    image: np.ndarray,
    panoptic_seg: Any,
    segments_info: list[dict],
    metadata,
    alpha: float = 0.6,
    scores: bool = False,
) -> np.ndarray:
    """Draws one panoptic segmentation over its image.

    Text and lines grow with the picture, so that they can be read when a screen shows it reduced.

    Args:
        image: (H, W, 3) uint8 RGB.
        panoptic_seg: (H, W) integer map of segment ids, 0 = void; a tensor or an array.
        segments_info: segments, with contiguous category ids, as the models return them. Things with a `track_id`
            (`ThingTracks`) get the same color in each frame of a video.
        metadata: object with `thing_classes`, `thing_colors`, `stuff_classes`, `stuff_colors`.
        alpha: opacity of the segments; void is darkened and hatched.
        scores: whether to write the score of a segment after its name, if it has one.

    Returns:
        (H, W, 3) uint8 RGB, reduced to a longer side of MAX_SIDE if it is larger.
    """
    image, ids = reduce_to(image, as_array(panoptic_seg), (MAX_SIDE, MAX_SIDE))
    factor = max(1.0, max(ids.shape) / PLAIN_SIDE)
    segments = {s["id"]: s for s in segments_info}
    known = np.unique(np.concatenate([np.unique(ids[rows]) for rows in _strips(ids)] or [ids[:0, 0]]))
    colors = np.stack([np.asarray(HATCH, np.float32), *_segment_colors(known, segments, metadata)])
    is_void = np.array([True, *(segment_id not in segments for segment_id in known.tolist())])
    labels = np.empty(ids.shape, np.int32)  # row of `colors`
    drawn = np.empty((*ids.shape, 3), np.uint8)
    width = round(factor)
    for rows in _strips(ids):
        labels[rows] = np.searchsorted(known, ids[rows]) + 1
        shown = np.where(is_void[labels[rows]] & _hatch(rows, ids.shape[1], width), 0, labels[rows])
        drawn[rows] = (image[rows] * (1 - alpha) + colors[shown] * alpha).round()
        first = max(rows.start - width, 0)
        drawn[rows][_borders(ids[first : rows.stop + width], width)[rows.start - first :][: len(shown)]] = 255
    boxes, areas = label_extents(labels, len(known))
    taken: list[tuple[int, int, int, int]] = []
    for row in np.argsort(areas, kind="stable").tolist():  # small segments first: large ones have room elsewhere
        segment, (x0, y0, x1, y1) = segments.get(int(known[row])), boxes[row].tolist()
        if segment is not None:
            text = _class_name(segment, metadata)
            if scores and "score" in segment:
                text += f" {segment['score']:.0%}"
            _write_name(drawn, labels[y0:y1, x0:x1] == row + 1, (x0, y0), int(areas[row]), text, factor, taken)
    return drawn


def draw_comparison(
    image: np.ndarray, ground_truth: tuple | None, prediction: tuple, metadata, scale: int = 0
) -> np.ndarray:
    """Draws image, ground truth and prediction side by side.

    Args:
        image: (H, W, 3) uint8 RGB.
        ground_truth: (map, segments_info), or None to leave it out.
        prediction: (map, segments_info).
        metadata: see `draw_panoptic`.
        scale: integer factor of enlargement; 0 chooses one that makes the height at least 300 pixels.

    Returns:
        (scale * H, about 3 * scale * W, 3) uint8 RGB, reduced to a longer side of MAX_SIDE if it is larger.
    """
    scale = scale or max(1, -(-300 // image.shape[0]))
    segmentations = [each for each in (ground_truth, prediction) if each is not None]
    limit = (MAX_SIDE, (MAX_SIDE - GAP * len(segmentations)) // (1 + len(segmentations)))
    large = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC) if scale > 1 else image
    panels = []
    for ids, segments_info in segmentations:
        ids = as_array(ids).repeat(scale, axis=0).repeat(scale, axis=1)
        ground, ids = reduce_to(large, ids, limit)
        panels += [
            np.full((len(ids), GAP, 3), 255, np.uint8),
            draw_panoptic(ground, ids, segments_info, metadata),
        ]
    return np.concatenate([ground, *panels], axis=1)


def reduce_to(image: np.ndarray, ids: np.ndarray, limit: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Reduces an image (H, W, 3) uint8 and its map (H, W) of ids to a maximum (height, width), in proportion.

    Both are returned as they are if they are not larger. The map gets the ids at the centers of the new pixels.
    """
    factor = min(most / max(side, 1) for most, side in zip(limit, ids.shape, strict=True))
    if factor >= 1:
        return image, ids
    height, width = (max(1, round(factor * side)) for side in ids.shape)
    rows, columns = (
        ((np.arange(new) + 0.5) * (old / new)).astype(int) for new, old in zip((height, width), ids.shape, strict=True)
    )
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), ids[np.ix_(rows, columns)]


def ground_truth_panoptic(dataset_dict: dict) -> tuple[np.ndarray, list[dict]]:
    """Returns the ground truth of a dataset dict in the format of a prediction: (map (H, W) of ids, segments_info)."""
    return read_id_map(dataset_dict["pan_seg_file_name"]), dataset_dict["segments_info"]


def as_array(panoptic_seg: Any) -> np.ndarray:
    """Returns a map, which may be a tensor on any device, as an array."""
    return np.asarray(panoptic_seg.cpu() if hasattr(panoptic_seg, "cpu") else panoptic_seg)


def _class_name(segment: dict, metadata) -> str:
    return (metadata.thing_classes if segment["isthing"] else metadata.stuff_classes)[segment["category_id"]]


def _segment_colors(known: np.ndarray, segments: dict, metadata) -> list[np.ndarray]:
    """Returns the class color of each segment; for things, the lightness varies between instances of a class.

    It depends on `track_id` if the thing has one, otherwise on its order among the things of its class.
    """
    seen: dict[int, int] = {}
    colors = []
    for segment_id in known.tolist():
        segment = segments.get(segment_id)
        if segment is None:
            colors.append(np.zeros(3, np.float32))
            continue
        if not segment["isthing"]:
            colors.append(np.asarray(metadata.stuff_colors[segment["category_id"]], np.float32))
            continue
        category = segment["category_id"]
        turn = seen[category] = seen.get(category, 0) + 1
        red, green, blue = (c / 255 for c in metadata.thing_colors[category])
        hue, light, saturation = colorsys.rgb_to_hls(red, green, blue)
        light = min(max(light + SHADES[(segment.get("track_id", turn) - 1) % len(SHADES)], 0.15), 0.85)
        colors.append(255 * np.asarray(colorsys.hls_to_rgb(hue, light, saturation), np.float32))
    return colors


def _borders(ids: np.ndarray, width: int) -> np.ndarray:
    """Returns (H, W) bool: pixels whose right or lower neighbor belongs to a different segment, widened to `width`."""
    border = np.zeros(ids.shape, np.uint8)
    border[:, :-1] |= ids[:, :-1] != ids[:, 1:]
    border[:-1] |= ids[:-1] != ids[1:]
    return (cv2.dilate(border, np.ones((width, width), np.uint8)) if width > 1 else border).view(bool)


def _hatch(rows: slice, width: int, line: int) -> np.ndarray:
    """Returns (rows, width) bool: the pixels on diagonal lines of `line` pixels, at their place in the image."""
    y, x = np.ogrid[rows, :width]
    return (x + y) % (HATCH_PERIOD * line) < line


def _write_name(
    image: np.ndarray,
    mask: np.ndarray,
    corner: tuple[int, int],
    area: int,
    name: str,
    factor: float,
    taken: list[tuple[int, int, int, int]],
) -> None:
    """Writes `name` in place into the innermost part of a mask where it covers no other name.

    Nothing is written if the mask is too small or has no such place.

    Args:
        image: (H, W, 3) uint8.
        mask: (h, w) bool, the bounding box of the mask.
        corner: x and y of the box in the image.
        area: pixels of the mask.
        name: text to write.
        factor: size of the text; 1 is about 12 pixels high.
        taken: boxes x0, y0, x1, y1 of the other names; the box of this one is added.
    """
    scale, line = 0.4 * factor, round(factor)
    (width, height), below = cv2.getTextSize(name, cv2.FONT_HERSHEY_SIMPLEX, scale, line)
    if area < 1.5 * width * height:
        return
    padded = cv2.copyMakeBorder(mask.view(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
    # Left and bottom end of the text, for each column and row of the mask that can be its center.
    lefts = np.clip(np.arange(mask.shape[1]) + corner[0] - width // 2, 0, max(image.shape[1] - width, 0))
    bottoms = np.clip(np.arange(mask.shape[0]) + corner[1] + height // 2, height, image.shape[0] - 1)
    pad = 2 * line
    for x0, y0, x1, y1 in taken:
        columns = (lefts < x1 + pad) & (lefts + width > x0 - pad)
        rows = (bottoms - height < y1 + pad) & (bottoms + below > y0 - pad)
        distance[np.ix_(rows, columns)] = 0
    y, x = np.unravel_index(int(distance.argmax()), distance.shape)
    if distance[y, x] == 0:
        return
    left, bottom = int(lefts[x]), int(bottoms[y])
    taken.append((left, bottom - height, left + width, bottom + below))
    # A thicker text as the outline would not fit: OpenCV 5 also makes it longer.
    text = np.zeros((height + below + 2 * pad, width + 2 * pad), np.uint8)
    cv2.putText(text, name, (pad, pad + height), cv2.FONT_HERSHEY_SIMPLEX, scale, 255, line, cv2.LINE_AA)
    outline = cv2.dilate(text, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * line + 1, 2 * line + 1)))
    top, left = bottom - height - pad, left - pad
    inside = np.s_[max(-top, 0) : image.shape[0] - top, max(-left, 0) : image.shape[1] - left]
    place = image[max(top, 0) : top + len(text), max(left, 0) : left + text.shape[1]]
    shade, light = (x[inside][..., None] / np.float32(255) for x in (outline, text))
    place[:] = (place * (1 - shade) * (1 - light) + 255 * light).round()


def _strips(ids: np.ndarray) -> list[slice]:
    """Returns slices of rows, each of about STRIP_PIXELS, so that no array of floats has the size of the image."""
    height, width = ids.shape
    step = max(1, STRIP_PIXELS // max(width, 1))
    return [slice(start, min(start + step, height)) for start in range(0, height, step)]

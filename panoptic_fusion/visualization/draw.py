"""Draws panoptic maps over images with OpenCV: class colors, one shade per instance, white borders, class names.

detectron2's Visualizer can also draw this project's outputs. These functions are for small images, panels and large
numbers of figures, for which matplotlib takes most of the time.
"""

import colorsys

import cv2
import numpy as np
import torch

from panoptic_fusion.data.annotation import label_extents, read_id_map

SHADES = (0.0, 0.22, -0.2, 0.11, -0.1, 0.3, -0.3)  # changes of lightness that the instances of one class cycle through

STRIP_PIXELS = 2**18  # pixels that are blended at a time


def draw_panoptic(
    image: np.ndarray, panoptic_seg: np.ndarray | torch.Tensor, segments_info: list[dict], metadata, alpha: float = 0.6
) -> np.ndarray:
    """Draws one panoptic segmentation over its image.

    Args:
        image: (H, W, 3) uint8 RGB.
        panoptic_seg: (H, W) integer map of segment ids, 0 = void.
        segments_info: segments, with contiguous category ids, as the models return them.
        metadata: object with `thing_classes`, `thing_colors`, `stuff_classes`, `stuff_colors`.
        alpha: opacity of the segments; void stays dark.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    ids = np.asarray(torch.as_tensor(panoptic_seg).cpu())
    segments = {s["id"]: s for s in segments_info}
    known = np.unique(np.concatenate([np.unique(ids[rows]) for rows in _strips(ids)] or [ids[:0, 0]]))
    colors = np.stack([np.zeros(3, np.float32), *_segment_colors(known, segments, metadata)])
    labels = np.empty(ids.shape, np.int32)  # row of `colors`
    drawn = np.empty((*ids.shape, 3), np.uint8)
    for rows in _strips(ids):
        labels[rows] = np.searchsorted(known, ids[rows]) + 1
        drawn[rows] = (image[rows] * (1 - alpha) + colors[labels[rows]] * alpha).round()
        drawn[rows][_borders(ids[rows.start : rows.stop + 1])[: rows.stop - rows.start]] = 255
    boxes, areas = label_extents(labels, len(known))
    for row, segment_id in enumerate(known.tolist()):
        if segment_id in segments:
            name, (x0, y0, x1, y1) = _class_name(segments[segment_id], metadata), boxes[row]
            _write_name(drawn, labels[y0:y1, x0:x1] == row + 1, (x0, y0), int(areas[row]), name)
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
        (scale * H, about 3 * scale * W, 3) uint8 RGB.
    """
    scale = scale or max(1, -(-300 // image.shape[0]))

    def enlarge(x: np.ndarray) -> np.ndarray:
        return np.repeat(np.repeat(x, scale, axis=0), scale, axis=1)

    large = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC) if scale > 1 else image
    panels = [large]
    for segmentation in (ground_truth, prediction):
        if segmentation is not None:
            ids, segments_info = segmentation
            ids = enlarge(np.asarray(torch.as_tensor(ids).cpu()))
            panels += [
                np.full((large.shape[0], 4, 3), 255, np.uint8),
                draw_panoptic(large, ids, segments_info, metadata),
            ]
    return np.concatenate(panels, axis=1)


def ground_truth_panoptic(dataset_dict: dict) -> tuple[np.ndarray, list[dict]]:
    """Returns the ground truth of a dataset dict in the format of a prediction: (map (H, W) of ids, segments_info)."""
    return read_id_map(dataset_dict["pan_seg_file_name"]), dataset_dict["segments_info"]


def _class_name(segment: dict, metadata) -> str:
    return (metadata.thing_classes if segment["isthing"] else metadata.stuff_classes)[segment["category_id"]]


def _segment_colors(known: np.ndarray, segments: dict, metadata) -> list[np.ndarray]:
    """Returns the class color of each segment; for things, the lightness varies between instances of a class."""
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
        turn = seen[category] = seen.get(category, -1) + 1
        red, green, blue = (c / 255 for c in metadata.thing_colors[category])
        hue, light, saturation = colorsys.rgb_to_hls(red, green, blue)
        light = min(max(light + SHADES[turn % len(SHADES)], 0.15), 0.85)
        colors.append(255 * np.asarray(colorsys.hls_to_rgb(hue, light, saturation), np.float32))
    return colors


def _borders(ids: np.ndarray) -> np.ndarray:
    """Returns (H, W) bool: pixels whose right or lower neighbor belongs to a different segment."""
    border = np.zeros(ids.shape, bool)
    border[:, :-1] |= ids[:, :-1] != ids[:, 1:]
    border[:-1] |= ids[:-1] != ids[1:]
    return border


def _write_name(image: np.ndarray, mask: np.ndarray, corner: tuple[int, int], area: int, name: str) -> None:
    """Writes `name` in place into the innermost part of a mask, if the mask is large enough for it.

    Args:
        image: (H, W, 3) uint8.
        mask: (h, w) bool, the bounding box of the mask.
        corner: x and y of the box in the image.
        area: pixels of the mask.
        name: text to write.
    """
    scale = 0.4
    (width, height), _ = cv2.getTextSize(name, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    if area < 1.5 * width * height:
        return
    padded = cv2.copyMakeBorder(mask.view(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(distance.argmax()), distance.shape)
    x, y = x + corner[0], y + corner[1]
    left = int(np.clip(x - width // 2, 0, max(image.shape[1] - width, 0)))
    origin = (left, int(np.clip(y + height // 2, height, image.shape[0] - 1)))
    cv2.putText(image, name, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), 3, cv2.LINE_AA)
    cv2.putText(image, name, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), 1, cv2.LINE_AA)


def _strips(ids: np.ndarray) -> list[slice]:
    """Returns slices of rows, each of about STRIP_PIXELS, so that no array of floats has the size of the image."""
    height, width = ids.shape
    step = max(1, STRIP_PIXELS // max(width, 1))
    return [slice(start, min(start + step, height)) for start in range(0, height, step)]

#!/usr/bin/env python
"""Compares the paint order of overlapping instances by detection score and by ranking score (OANet, figure 7).

    python tools/ranking_picture.py --model output/toy_oanet_r18 --input photos/ --output output/toy_oanet_r18/ranking

The model's fusion must be SpatialRankingFusion. One pair of instances is drawn per image: the pair that the paint order
changes most. NAME.png shows, from left to right: the image with the location of the pair, the two masks, both scores of
both instances, the panoptic map in the order of the detection scores, and the panoptic map in the order of the ranking
scores. For many inputs, only the images with the largest changes are written, largest change per class pair first,
together with all.png (a contact sheet) and pairs.json.
"""

import argparse
import os
import sys

import cv2
import numpy as np
import torch
from ranking_pairs import Pair, find_pair, most_telling, owners
from tqdm import tqdm

from panoptic_fusion import load_trained
from panoptic_fusion.data.frames import find_files, read_frames
from panoptic_fusion.engine.preflight import check_writable
from panoptic_fusion.errors import ConfigError, UserError, run_cli
from panoptic_fusion.files import unused_name, write_json
from panoptic_fusion.modeling.fusion import SpatialRankingFusion
from panoptic_fusion.networks.trained import build_predictor
from panoptic_fusion.visualization import draw_panoptic

HEIGHT = 340  # height of the pictures without their titles
COLORS = ((255, 120, 0), (0, 140, 255))  # RGB of the two instances: first and second by detection score


def titled(picture: np.ndarray, title: str) -> np.ndarray:
    """Adds a line of text above a picture (H, W, 3)."""
    bar = np.full((26, picture.shape[1], 3), 255, np.uint8)
    cv2.putText(bar, title, (4, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([bar, picture])


def outline(picture: np.ndarray, masks: np.ndarray, thickness: int = 2) -> None:
    """Draws the borders of both masks (2, H, W) in the colors of the pair, in place."""
    for mask, color in zip(masks, COLORS, strict=True):
        contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, contours, -1, color, thickness, cv2.LINE_AA)


def score_bars(pair: Pair) -> np.ndarray:
    """Draws a panel with two bars per kind of score; the instance with the longer bar is in front."""
    panel = np.full((HEIGHT, 270, 3), 255, np.uint8)

    def write(text: str, x: int, y: int, scale: float = 0.5, color=(0, 0, 0), weight: int = 1) -> None:
        cv2.putText(panel, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, color, weight, cv2.LINE_AA)

    for top, kind, scores in ((40, "detection score", pair.detection), (200, "ranking score", pair.ranking)):
        write(kind, 10, top, 0.55, weight=2)
        for i, (score, name, color) in enumerate(zip(scores, pair.names, COLORS, strict=True)):
            y = top + 14 + 44 * i
            cv2.rectangle(panel, (10, y), (10 + max(1, round(160 * score)), y + 18), color, -1)
            front = scores[i] > scores[1 - i] or (scores[0] == scores[1] and i == 0)
            write(f"{score:.3f}{'  in front' if front else ''}", 178, y + 14)
            write(name, 10, y + 33, 0.42, (90, 90, 90))
    return panel


def draw(image: np.ndarray, pair: Pair, before: tuple, after: tuple, metadata) -> np.ndarray:
    """Draws the picture of one pair.

    Args:
        image: (H, W, 3) uint8 RGB image.
        pair: pair whose masks have the size of the maps.
        before, after: (map, segments_info) in the order of the detection scores and of the ranking scores.
        metadata: see `draw_panoptic`.

    Returns:
        (HEIGHT + 26, w, 3) uint8 RGB picture.
    """
    size = pair.masks.shape[1:]
    if image.shape[:2] != size:  # the model fuses at input resolution
        image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    y0, y1, x0, x1 = place = place_of(pair.masks.any(0))
    scale = HEIGHT / max(y1 - y0, x1 - x0)
    zoomed = (max(1, round((x1 - x0) * scale)), max(1, round((y1 - y0) * scale)))

    def zoom(x: np.ndarray, how: int) -> np.ndarray:
        return cv2.resize(np.ascontiguousarray(x[y0:y1, x0:x1]), zoomed, interpolation=how)

    def panel_of(picture: np.ndarray, title: str) -> np.ndarray:
        room = ((0, HEIGHT - picture.shape[0]), (0, HEIGHT - picture.shape[1]), (0, 0))
        return titled(np.pad(picture, room, constant_values=255), title)

    whole = cv2.resize(image, (round(image.shape[1] * HEIGHT / image.shape[0]), HEIGHT), interpolation=cv2.INTER_CUBIC)
    corners = [round(v * HEIGHT / image.shape[0]) for v in place]
    cv2.rectangle(whole, (corners[2], corners[0]), (corners[3] - 1, corners[1] - 1), (255, 255, 255), 2)

    large = zoom(image, cv2.INTER_CUBIC)
    masks = np.stack([zoom(mask.astype(np.uint8), cv2.INTER_NEAREST) > 0 for mask in pair.masks])
    tinted = large.astype(np.float32)
    for mask, color in zip(masks, COLORS, strict=True):
        tinted[mask] = 0.65 * tinted[mask] + 0.35 * np.array(color, np.float32)
    tinted = tinted.round().astype(np.uint8)
    outline(tinted, masks)

    panels = [titled(whole, "image"), panel_of(tinted, "two detections"), titled(score_bars(pair), "")]
    for title, (ids, segments_info) in (("painted by detection score", before), ("painted by ranking score", after)):
        held = owners(ids, segments_info)
        panel = draw_panoptic(large, zoom(ids.cpu().numpy(), cv2.INTER_NEAREST), segments_info, metadata)
        outline(panel, np.stack([zoom((held == row).astype(np.uint8), cv2.INTER_NEAREST) > 0 for row in pair.rows]), 3)
        panels.append(panel_of(panel, title))
    gap = np.full((panels[0].shape[0], 6, 3), 255, np.uint8)
    return np.concatenate([x for p in panels for x in (p, gap)][:-1], axis=1)


def place_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Returns the square y0, y1, x0, x1 around a mask (H, W) bool with a margin, clipped to the image."""
    found = [np.flatnonzero(mask.any(axis)) for axis in (1, 0)]
    length = max(24.0, *(1.25 * (v[-1] + 1 - v[0]) for v in found))
    ends = []
    for v, side in zip(found, mask.shape, strict=True):
        start = max(0.0, min(side - length, (v[0] + v[-1] + 1 - length) / 2))
        ends += [int(start), int(min(side, np.ceil(start + length)))]
    return tuple(ends)


def sheet(pictures: list[np.ndarray]) -> np.ndarray:
    """Stacks pictures vertically, padded with white to the same width."""
    width = max(p.shape[1] for p in pictures)
    return np.concatenate([np.pad(p, ((0, 8), (0, width - p.shape[1]), (0, 0)), constant_values=255) for p in pictures])


def main() -> None:
    """Runs the tool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="OUTPUT_DIR of a training run with SpatialRankingFusion")
    parser.add_argument("--input", nargs="+", required=True, help="images, folders, globs or videos")
    parser.add_argument("--output", required=True, help="folder for the results")
    parser.add_argument("--num-images", type=int, default=4, help="how many are written at most")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE pairs that change the config")
    args = parser.parse_args()
    if args.num_images < 1:
        raise UserError(f"--num-images is {args.num_images}: use 1 or more")
    files = find_files(args.input)
    check_writable(args.output, "--output")
    cfg = load_trained(args.model, [*args.opts, "MODEL.PANOPTIC_FUSION.OUTPUTS", "['panoptic_seg']"])
    predictor = build_predictor(cfg)
    os.makedirs(args.output, exist_ok=True)
    fusion = predictor.model.fusion
    if not isinstance(fusion, SpatialRankingFusion):
        raise ConfigError(
            f"MODEL.PANOPTIC_FUSION.NAME of {args.model} is {cfg.MODEL.PANOPTIC_FUSION.NAME!r}: there are ranking "
            "scores with SpatialRankingFusion only"
        )
    metadata = predictor.metadata
    seen = {}
    fusion.register_forward_pre_hook(lambda module, inputs: seen.update(inputs=inputs))

    found, used = [], set()
    frames = ((file, name, image) for file in files for name, image in read_frames(file))
    for file, name, image in tqdm(frames, desc="looking", unit="image", disable=not sys.stderr.isatty()):
        predictor(image)
        with torch.no_grad():
            scene = fusion.scene(*seen["inputs"][:2])
            ranking = fusion.ranking_scores(scene).tolist() if scene.kept else []
            maps = [fusion.fuse(scene, order) for order in (scene.kept, fusion.order(scene))]
        pair = find_pair(scene, ranking, owners(*maps[0]), owners(*maps[1]), metadata.thing_classes)
        if pair is not None:
            picture = draw(image[:, :, ::-1], pair, *maps, metadata)
            found.append((pair, unused_name(name, used), str(file), picture))
            found = most_telling(found, args.num_images)
    if not found:
        raise UserError("in none of the images two instances of sufficient score overlap")
    entries = []
    for pair, name, file, picture in found:
        cv2.imwrite(os.path.join(args.output, f"{name}.png"), picture[:, :, ::-1])
        instances = [
            {"class": c, "detection_score": d, "ranking_score": r}
            for c, d, r in zip(pair.names, pair.detection, pair.ranking, strict=True)
        ]
        entries.append({"picture": f"{name}.png", "image": file, "instances": instances, "changed": pair.changed})
        print(f"{name}.png: " + ", ".join(f"{c} {d:.3f} -> {r:.3f}" for c, d, r in (x.values() for x in instances)))
    cv2.imwrite(os.path.join(args.output, "all.png"), sheet([x[-1] for x in found])[:, :, ::-1])
    path = os.path.join(args.output, "pairs.json")
    write_json(path, entries, indent=1)
    print(f"{len(found)} pictures (detection -> ranking score), all.png and pairs.json in {args.output}")


if __name__ == "__main__":
    run_cli(main)

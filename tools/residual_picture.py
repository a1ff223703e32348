#!/usr/bin/env python
"""Measures and draws the residual |semantic - instances| between a model's two things masks (TASCNet, figure 3).

python tools/residual_picture.py --model output/tascnet_toy --dataset toy_val --output output/tascnet_toy/residual

The semantic mask is the probability of all thing classes where it is above 0.5. The instance mask is RoI-Flatten of the
predicted instances that may enter the panoptic map. The tool writes residual.json (the mean over all images and the
mean of each image), mean.png (the mean at each position), and NAME.png for some images: image, semantic mask, instance
mask, residual.
"""

import argparse
import os
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from panoptic_fusion import load_trained
from panoptic_fusion.data.image_file import read_rgb
from panoptic_fusion.data.mapper import PanopticDatasetMapper
from panoptic_fusion.engine.preflight import check_writable
from panoptic_fusion.errors import ConfigError, run_cli
from panoptic_fusion.files import unused_name, write_json
from panoptic_fusion.networks.trained import build_predictor, load_eval_dicts


def heat(values: np.ndarray, most: float, size: tuple[int, int]) -> np.ndarray:
    """Draws values (h, w) as colors from black (0) to yellow (`most`): (H, W, 3) uint8 BGR of `size` (H, W)."""
    scaled = (values.clip(0, most) * (255 / most)).round().astype(np.uint8)
    return cv2.applyColorMap(cv2.resize(scaled, size[::-1], interpolation=cv2.INTER_NEAREST), cv2.COLORMAP_INFERNO)


def labelled(picture: np.ndarray, text: str) -> np.ndarray:
    """Adds a line of text above a picture (H, W, 3)."""
    bar = np.full((22, picture.shape[1], 3), 255, np.uint8)
    cv2.putText(bar, text, (4, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([bar, picture])


def panel(file: str, semantic: np.ndarray, instance: np.ndarray) -> np.ndarray:
    """Draws the image, both masks and the residual side by side, about 300 pixels high."""
    image = read_rgb(file)[:, :, ::-1]
    scale = 300 / image.shape[0]
    size = (300, round(image.shape[1] * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    residual = np.abs(semantic - instance)
    pictures = [
        labelled(cv2.resize(image, size[::-1], interpolation=how), "image"),
        labelled(heat(semantic, 1, size), "semantic things mask"),
        labelled(heat(instance, 1, size), "flattened instances"),
        labelled(heat(residual, 1, size), f"residual, mean {residual.mean():.4f}"),
    ]
    gap = np.full((pictures[0].shape[0], 4, 3), 255, np.uint8)
    return np.concatenate([x for p in pictures for x in (p, gap)][:-1], axis=1)


def main() -> None:
    """Runs the tool."""

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="OUTPUT_DIR of a training run")
    parser.add_argument("--dataset", required=True, help="a dataset of the model's config, such as toy_val")
    parser.add_argument("--output", required=True, help="folder for the results")
    parser.add_argument("--num-images", type=int, default=4, help="how many are drawn, evenly spread over the dataset")
    parser.add_argument("--mean-max", type=float, default=0.5, help="residual that is brightest in mean.png")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs that change the config")
    args = parser.parse_args()
    if not 0 < args.mean_max <= 1:
        raise ConfigError(f"--mean-max is {args.mean_max}: use a number above 0, up to 1")
    check_writable(args.output, "--output")
    cfg = load_trained(args.model, [*args.opts, "MODEL.PANOPTIC_FUSION.OUTPUTS", "['things_masks']"])
    dicts = load_eval_dicts(cfg, args.dataset)
    model = build_predictor(cfg).model
    os.makedirs(args.output, exist_ok=True)
    mapper = PanopticDatasetMapper(cfg, is_train=False)
    drawn = set(np.linspace(0, len(dicts) - 1, min(args.num_images, len(dicts))).round().astype(int).tolist())

    per_image, total, used = {}, None, set()
    for i, dataset_dict in enumerate(tqdm(dicts, desc="measuring", disable=not sys.stderr.isatty())):
        with torch.no_grad():
            masks = model([mapper(dataset_dict)])[0]["things_masks"]
        semantic, instance = (mask.cpu().numpy() for mask in masks)
        residual = np.abs(semantic - instance)
        per_image[str(dataset_dict["file_name"])] = float(residual.mean())
        size = residual.shape if total is None else total.shape
        resized = cv2.resize(residual, size[::-1], interpolation=cv2.INTER_LINEAR)
        total = resized if total is None else total + resized
        if i in drawn:
            name = unused_name(Path(dataset_dict["file_name"]).stem, used)
            cv2.imwrite(os.path.join(args.output, f"{name}.png"), panel(dataset_dict["file_name"], semantic, instance))
    mean = float(np.mean(list(per_image.values())))
    result = {"mean_residual": mean, "images": len(dicts), "dataset": args.dataset, "per_image": per_image}
    path = os.path.join(args.output, "residual.json")
    write_json(path, result, indent=1)
    size = (300, round(300 * total.shape[1] / total.shape[0]))
    picture = labelled(heat(total / len(dicts), args.mean_max, size), f"mean residual {mean:.4f}, {len(dicts)} images")
    cv2.imwrite(os.path.join(args.output, "mean.png"), picture)
    print(f"mean residual {mean:.4f} over {len(dicts)} images; {path}, mean.png and {len(used)} pictures")


if __name__ == "__main__":
    run_cli(main)

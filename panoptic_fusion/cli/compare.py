#!/usr/bin/env python
"""Draws image, ground truth and prediction of a trained model side by side, one PNG an image, and a contact sheet.

python tools/compare_pictures.py --model output/toy --dataset toy_val --output output/toy/pictures --num-images 8
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2  # noqa: E402
import numpy as np  # noqa: E402
from tqdm import tqdm  # noqa: E402

from panoptic_fusion import load_trained  # noqa: E402
from panoptic_fusion.engine.preflight import check_writable  # noqa: E402
from panoptic_fusion.errors import run_cli  # noqa: E402
from panoptic_fusion.files import unused_name  # noqa: E402
from panoptic_fusion.networks.trained import build_predictor, images_of  # noqa: E402
from panoptic_fusion.visualization import draw_comparison, ground_truth_panoptic  # noqa: E402


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="OUTPUT_DIR of a training")
    parser.add_argument("--dataset", required=True, help="a data set of the model's config, such as toy_val")
    parser.add_argument("--output", required=True, help="folder for the pictures")
    parser.add_argument("--num-images", type=int, default=8, help="how many, evenly spread over the data set")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs that change the config")
    args = parser.parse_args()
    check_writable(args.output, "--output")
    cfg = load_trained(args.model, [*args.opts, "MODEL.PANOPTIC_FUSION.OUTPUTS", "['panoptic_seg']"])
    dicts = images_of(cfg, args.dataset)
    dicts = [dicts[i] for i in np.linspace(0, len(dicts) - 1, min(args.num_images, len(dicts))).round().astype(int)]
    predictor = build_predictor(cfg)
    panels, used = [], set()
    for dataset_dict in tqdm(dicts, desc="drawing", disable=not sys.stderr.isatty()):
        image = cv2.imread(dataset_dict["file_name"])
        panel = draw_comparison(
            image[:, :, ::-1], ground_truth_panoptic(dataset_dict), predictor(image)["panoptic_seg"], predictor.metadata
        )
        name = unused_name(Path(dataset_dict["file_name"]).stem, used)
        cv2.imwrite(os.path.join(args.output, f"{name}.png"), panel[:, :, ::-1])
        panels.append(panel)
    cv2.imwrite(os.path.join(args.output, "all.png"), contact_sheet(panels)[:, :, ::-1])
    print(f"{len(panels)} pictures (image, ground truth, prediction) and all.png in {args.output}")


def contact_sheet(panels: list[np.ndarray]) -> np.ndarray:
    """Panels (h_i, w_i, 3) uint8, one below the other, padded with white to one width."""
    width = max(p.shape[1] for p in panels)
    return np.concatenate([np.pad(p, ((0, 6), (0, width - p.shape[1]), (0, 0)), constant_values=255) for p in panels])


if __name__ == "__main__":
    run_cli(main)

"""Draws image, ground truth and prediction of a trained model side by side: one JPEG per image, and a contact sheet.

    panoptic-fusion compare --model output/toy --dataset toy_val --output output/toy/pictures --num-images 8

The contact sheet is all.jpg. In the pictures, void is hatched.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from panoptic_fusion.errors import counted

from .arguments import add_allow_download, add_opts, check_at_least_one

if TYPE_CHECKING:
    import numpy as np

HELP = "draw image, ground truth and prediction side by side"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the model, the dataset and the output folder."""
    parser.add_argument("--model", required=True, help="OUTPUT_DIR of a training run")
    parser.add_argument("--dataset", required=True, help="a dataset of the model's config, such as toy_val")
    parser.add_argument("--output", required=True, help="folder for the pictures")
    parser.add_argument("--num-images", type=int, default=8, help="how many, evenly spread over the dataset")
    add_allow_download(parser)
    add_opts(parser)


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    pictures = compare(
        args.model,
        args.dataset,
        args.output,
        num_images=args.num_images,
        opts=args.opts,
        allow_download=args.allow_download,
    )
    print(f"{counted(len(pictures), 'picture')} (image, ground truth, prediction) and all.jpg in {args.output}")


def compare(
    model: str,
    dataset: str,
    output: str | os.PathLike,
    *,
    num_images: int = 8,
    opts: Sequence[str] = (),
    allow_download: bool = False,
) -> list[Path]:
    """Draws image, ground truth and prediction side by side.

    Args:
        model: OUTPUT_DIR of a training run.
        dataset: dataset in the model's config, such as "toy_val".
        output: folder for the pictures.
        num_images: number of images to draw, evenly spread over the dataset.
        opts: sequence KEY, VALUE, KEY, VALUE, ... that changes the config.
        allow_download: downloads weights from any address that the config names, see `check_downloads`.

    Returns:
        The paths of the pictures, one per image; all.jpg in the same folder stacks all of them vertically.

    Raises:
        UserError, FileNotFoundError: nothing was drawn; the message names the problem.
    """
    check_at_least_one(num_images, "--num-images")

    from tqdm import tqdm

    from panoptic_fusion.data.mapper import read_image
    from panoptic_fusion.files import check_writable, remove_partial_files, unused_name
    from panoptic_fusion.networks.trained import (
        build_predictor,
        check_is_panoptic,
        evenly_spread,
        load_eval_dicts,
        load_trained,
    )
    from panoptic_fusion.visualization import draw_comparison, ground_truth_panoptic, write_picture

    check_writable(os.fspath(output), "--output")
    words = [*opts, "MODEL.PANOPTIC_FUSION.OUTPUTS", "['panoptic_seg']"]
    cfg = load_trained(model, words, allow_download=allow_download)
    check_is_panoptic(cfg, model)
    dicts = evenly_spread(load_eval_dicts(cfg, dataset), num_images)
    predictor = build_predictor(cfg)
    os.makedirs(output, exist_ok=True)
    remove_partial_files(output)
    used: set[str] = set()
    panels, pictures = [], []
    for dataset_dict in tqdm(dicts, desc="drawing", disable=not sys.stderr.isatty()):
        image = read_image(dataset_dict, "BGR")
        panel = draw_comparison(
            image[:, :, ::-1], ground_truth_panoptic(dataset_dict), predictor(image)["panoptic_seg"], predictor.metadata
        )
        pictures.append(Path(output, f"{unused_name(Path(dataset_dict['file_name']).stem, used)}.jpg"))
        write_picture(pictures[-1], panel)
        panels.append(panel)
    write_picture(os.path.join(output, "all.jpg"), contact_sheet(panels))
    return pictures


def contact_sheet(panels: list[np.ndarray]) -> np.ndarray:
    """Stacks panels (h_i, w_i, 3) uint8 vertically, padded with white to the same width.

    The sheet is reduced to MAX_SIDE x MAX_SIDE pixels in all, in its own proportions, if it is larger.
    """
    import cv2
    import numpy as np

    from panoptic_fusion.visualization.draw import MAX_SIDE

    width = max(p.shape[1] for p in panels)
    sheet = np.concatenate([np.pad(p, ((0, 6), (0, width - p.shape[1]), (0, 0)), constant_values=255) for p in panels])
    factor = MAX_SIDE / (sheet.shape[0] * width) ** 0.5
    return sheet if factor >= 1 else cv2.resize(sheet, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)

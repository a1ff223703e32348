"""Draws the figure and the gallery of `panoptic-fusion leaderboard`."""

import itertools
import statistics
from pathlib import Path

import cv2
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from panoptic_fusion.data.mapper import read_image
from panoptic_fusion.errors import UserError
from panoptic_fusion.files import write_atomically, write_image
from panoptic_fusion.networks.trained import build_predictor, evenly_spread, load_eval_dicts, load_trained
from panoptic_fusion.visualization import draw_panoptic, ground_truth_panoptic

CELL_WIDTH, TITLE_HEIGHT, GAP = 320, 24, 4  # pixels


def draw_figure(
    path: Path, quality: dict[str, list[float | None]], seconds: dict[str, float], size: tuple[int, int]
) -> None:
    """Plots PQ against seconds per image: one point per system, with its standard deviation over the seeds.

    Args:
        path: path of the picture to write.
        quality: {system: PQ of each seed, or None if it is missing}.
        seconds: {system: seconds per image}.
        size: width and height of the timed image.
    """
    figure = Figure(figsize=(6, 4), dpi=130)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for (system, values), marker in zip(quality.items(), itertools.cycle("osD^v<>P*X")):
        values = [value for value in values if value is not None]
        if values:
            deviation = statistics.stdev(values) if len(values) > 1 else None
            axes.errorbar(seconds[system], statistics.mean(values), deviation, fmt=marker, capsize=3, label=system)
    axes.set_xlabel(f"seconds per image, {size[0]}×{size[1]}")
    axes.set_ylabel("PQ")
    axes.set_xlim(left=0)
    axes.margins(x=0.1, y=0.15)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    write_atomically(path, lambda file: figure.savefig(file, format=path.suffix[1:]))


def draw_gallery(
    path: Path, models: dict[str, str], num_images: int, photos: bool, *, allow_download: bool = False
) -> None:
    """Draws the predictions of all models for the same validation images: one row per image, one column per model.

    Args:
        path: path of the picture to write.
        models: {title: OUTPUT_DIR of the training run}; all models must use the same dataset.
        num_images: number of images, evenly spread over the dataset.
        photos: whether to add columns with the photo and the ground truth, and to draw predictions over the photo.
            Otherwise the photo is not visible at all.
        allow_download: downloads weights from any address that a config names, see `check_downloads`.

    Raises:
        UserError: the models have different datasets.
    """
    columns: dict[str, list[np.ndarray]] = {}
    dataset = None
    for title, folder in models.items():
        opts = ["MODEL.PANOPTIC_FUSION.OUTPUTS", "['panoptic_seg']"]
        cfg = load_trained(folder, opts, allow_download=allow_download)
        if dataset not in (None, cfg.DATASETS.TEST[0]):
            raise UserError(f"{title} was evaluated on {cfg.DATASETS.TEST[0]}, the others on {dataset}")
        dataset = cfg.DATASETS.TEST[0]
        chosen = evenly_spread(load_eval_dicts(cfg, dataset), num_images)
        predictor = build_predictor(cfg)
        for dataset_dict in chosen:
            image = read_image(dataset_dict, "BGR")
            cell = _cell(image[:, :, ::-1], cv2.INTER_AREA)
            found = {title: predictor(image)["panoptic_seg"]}
            if photos and len(columns.get("photo", ())) < len(chosen):
                columns.setdefault("photo", []).append(cell)
                found = {"ground truth": ground_truth_panoptic(dataset_dict), **found}
            for column, (ids, segments_info) in found.items():
                ground, alpha = (cell, 0.6) if photos else (np.zeros_like(cell), 1.0)
                ids = _cell(np.asarray(torch.as_tensor(ids).cpu()).astype(np.int32), cv2.INTER_NEAREST)
                picture = draw_panoptic(ground, ids, segments_info, predictor.metadata, alpha)
                columns.setdefault(column, []).append(picture)
    write_image(path, grid(columns), jpeg_quality=88)


def grid(columns: dict[str, list[np.ndarray]]) -> np.ndarray:
    """Arranges columns of RGB pictures of CELL_WIDTH under their titles, with white gaps: (H, W, 3) uint8."""
    drawn = []
    for title, pictures in columns.items():
        cells = [np.full((TITLE_HEIGHT, CELL_WIDTH, 3), 255, np.uint8)]
        cv2.putText(cells[0], title, (2, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
        for picture in pictures:
            cells.append(np.pad(picture, ((0, GAP), (0, 0), (0, 0)), constant_values=255))
        drawn.append(np.pad(np.concatenate(cells), ((0, 0), (0, GAP), (0, 0)), constant_values=255))
    return np.concatenate(drawn, axis=1)


def _cell(array: np.ndarray, interpolation: int) -> np.ndarray:
    height = round(CELL_WIDTH * array.shape[0] / array.shape[1])
    return cv2.resize(array, (CELL_WIDTH, height), interpolation=interpolation)

"""Oracle study of a trained model: panoptic quality with parts replaced by ground truth (UPSNet, table 6)."""

import logging
import sys

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from tqdm import tqdm

from panoptic_fusion.data.coco_panoptic import get_label_space
from panoptic_fusion.data.mapper import PanopticDatasetMapper, build_augmentations
from panoptic_fusion.errors import ConfigError, counted
from panoptic_fusion.markdown import markdown_table
from panoptic_fusion.networks import IndependentPanoptic, PanopticRCNN
from panoptic_fusion.networks.trained import build_predictor

from .evaluator import PanopticQualityEvaluator
from .oracle import PARTS, ROWS, oracle_outputs
from .selection import restrict_outputs

MEASURES = ("PQ", "PQ_th", "PQ_st", "SQ", "RQ")


def check_has_parts(cfg: CfgNode, source: str, purpose: str = "parts can be replaced") -> None:
    """Checks that a config's network has boxes, masks and semantic segmentation.

    Args:
        cfg: resolved config.
        source: origin of the config, for the error message.
        purpose: description of the use that needs these parts, for the error message.

    Raises:
        ConfigError: the network has no such parts.
    """
    if not issubclass(META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE), PanopticRCNN | IndependentPanoptic):
        raise ConfigError(
            f"{source}: MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE}; {purpose} in a "
            "PanopticRCNN or IndependentPanoptic only, which have boxes, masks and semantic segmentation"
        )


def evaluate_rows(cfg: CfgNode, dataset: str, dicts: list[dict]) -> dict[tuple[str, ...], dict[str, float]]:
    """Returns the results of `PanopticQualityEvaluator` on images of a dataset, for each of `ROWS`."""
    model = build_predictor(cfg).model
    mapper = PanopticDatasetMapper(  # images as in inference, labels as in training
        is_train=True,
        augmentations=build_augmentations(cfg, is_train=False),
        image_format=cfg.INPUT.FORMAT,
        label_space=get_label_space(dataset),
        ontology=model.fusion.ontology,
    )
    evaluators = {row: PanopticQualityEvaluator(dataset, distributed=False) for row in ROWS}
    with torch.no_grad(), restrict_outputs(model, ["panoptic"]):
        for dataset_dict in tqdm(dicts, desc="evaluating", unit="image", disable=not sys.stderr.isatty()):
            inputs = [mapper(dataset_dict)]
            for row, outputs in oracle_outputs(model, inputs).items():
                evaluators[row].process(inputs, outputs)
    level = logging.root.manager.disable
    logging.disable(max(level, logging.WARNING))  # log one table in all instead of two per row
    try:
        return {row: evaluator.evaluate()["panoptic_seg"] for row, evaluator in evaluators.items()}
    finally:
        logging.disable(level)


def table(rows: dict[tuple[str, ...], dict[str, float]]) -> str:
    """Returns the metrics of the rows as a Markdown table, with their gain over the unmodified model."""
    lines = [
        [*("x" if part in row else "" for part in PARTS)]
        + [results[name] for name in MEASURES]
        + [results["PQ"] - rows[()]["PQ"] if row else None]
        for row, results in rows.items()
    ]
    header = [*(f"GT {part}" for part in PARTS), *MEASURES, "PQ gained"]
    return counted(rows[()]["images"], "image") + "\n\n" + markdown_table(lines, header)


def interpretation(rows: dict[tuple[str, ...], dict[str, float]]) -> str:
    """Describes which single replacement gains most, and how much PQ is missing when all parts are replaced."""

    quality = {row: results["PQ"] for row, results in rows.items()}
    single = {row[0]: value - quality[()] for row, value in quality.items() if len(row) == 1}
    best = max(single, key=single.get)
    others = ", ".join(f"{part} {gain:+.1f}" for part, gain in single.items() if part != best)
    left = 100 - quality[PARTS]
    text = f"Among the single parts, ground truth for {best} gains most: {single[best]:+.1f} PQ ({others})."
    return f"{text} With all of them {left:.1f} PQ are still missing: masks, fusion, and resizing."

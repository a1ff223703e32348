#!/usr/bin/env python
"""Shows where a trained model loses panoptic quality: evaluates it with parts replaced by ground truth (UPSNet, table
6).

    python tools/oracle.py --model output/camvid --dataset camvid_val --output output/camvid/oracle

Ground truth takes the place of the boxes, of the instances' classes and of the semantic segmentation, alone and
together; masks and fusion stay the model's. panoptic_fusion/evaluation/oracle.py says what that means exactly. Printed
is a table with PQ of each, written is oracle.json with the classes as well.
"""

import argparse
import logging
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from panoptic_fusion.data.coco_panoptic import label_space_of  # noqa: E402  (first, as in demo.py)

# isort: split
import numpy as np  # noqa: E402
import torch  # noqa: E402
from detectron2.config import CfgNode  # noqa: E402
from detectron2.modeling import META_ARCH_REGISTRY  # noqa: E402
from tabulate import tabulate  # noqa: E402
from tqdm import tqdm  # noqa: E402

from panoptic_fusion.data.mapper import PanopticDatasetMapper, build_augmentations  # noqa: E402
from panoptic_fusion.engine.preflight import check_writable  # noqa: E402
from panoptic_fusion.errors import ConfigError, run_cli  # noqa: E402
from panoptic_fusion.evaluation import PanopticQualityEvaluator, only_needed_outputs  # noqa: E402
from panoptic_fusion.evaluation.oracle import PARTS, ROWS, oracle_outputs  # noqa: E402
from panoptic_fusion.files import without_nan, write_json  # noqa: E402
from panoptic_fusion.networks import IndependentPanoptic, PanopticRCNN  # noqa: E402
from panoptic_fusion.networks.trained import build_predictor, config_of, images_of  # noqa: E402

MEASURES = ("PQ", "PQ_th", "PQ_st", "SQ", "RQ")


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="OUTPUT_DIR of a training")
    parser.add_argument("--config-file", help="instead of --model: a config, such as one of two networks")
    parser.add_argument("--dataset", required=True, help="a data set of the model's config, such as toy_val")
    parser.add_argument("--output", required=True, help="folder for oracle.json")
    parser.add_argument("--num-images", type=int, help="only so many, evenly spread over the data set")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs that change the config")
    args = parser.parse_args()
    if args.num_images is not None and args.num_images < 1:
        raise ConfigError(f"--num-images is {args.num_images}: use 1 or more")
    opts = [*args.opts, "MODEL.PANOPTIC_FUSION.OUTPUTS", "['panoptic_seg']"]
    cfg = config_of(args.model, args.config_file, opts)
    if not issubclass(META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE), PanopticRCNN | IndependentPanoptic):
        raise ConfigError(
            f"{args.model or args.config_file}: MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE}; parts can be "
            "replaced in a PanopticRCNN or IndependentPanoptic only, which have boxes, masks and semantic segmentation"
        )
    dicts = images_of(cfg, args.dataset)
    check_writable(args.output, "--output")
    if args.num_images is not None:
        dicts = [dicts[i] for i in np.linspace(0, len(dicts) - 1, min(args.num_images, len(dicts))).round().astype(int)]
    rows = evaluate(cfg, args.dataset, dicts)
    path = os.path.join(args.output, "oracle.json")
    named = {"+".join(row) or "model": results for row, results in rows.items()}
    content = {"model": args.model or args.config_file, "dataset": args.dataset}
    content |= {"images": len(dicts), "replaced": named}
    write_json(path, without_nan(content), indent=1)
    print(f"{table(rows, len(dicts))}\n\n{interpretation(rows)}\n\nwritten to {path}")


def evaluate(cfg: CfgNode, dataset: str, dicts: list[dict]) -> dict[tuple[str, ...], dict[str, float]]:
    """The results of `PanopticQualityEvaluator` on some images of a data set, for each of `ROWS`."""
    model = build_predictor(cfg).model
    mapper = PanopticDatasetMapper(  # images as in inference, labels as in training
        is_train=True,
        augmentations=build_augmentations(cfg, is_train=False),
        image_format=cfg.INPUT.FORMAT,
        label_space=label_space_of(dataset),
        ontology=model.fusion.ontology,
    )
    evaluators = {row: PanopticQualityEvaluator(dataset, distributed=False) for row in ROWS}
    with torch.no_grad(), only_needed_outputs(model, ["panoptic"]):
        for dataset_dict in tqdm(dicts, desc="evaluating", unit="image", disable=not sys.stderr.isatty()):
            inputs = [mapper(dataset_dict)]
            for row, outputs in oracle_outputs(model, inputs).items():
                evaluators[row].process(inputs, outputs)
    logger = logging.getLogger(PanopticQualityEvaluator.__module__)
    logger.disabled = True  # one table instead of two for each row
    try:
        return {row: evaluator.evaluate()["panoptic_seg"] for row, evaluator in evaluators.items()}
    finally:
        logger.disabled = False


def table(rows: dict[tuple[str, ...], dict[str, float]], num_images: int) -> str:
    """The measures of the rows as a markdown table, with what they have more than the model itself."""
    lines = [
        [*("x" if part in row else "" for part in PARTS)]
        + [results[name] for name in MEASURES]
        + [results["PQ"] - rows[()]["PQ"] if row else ""]
        for row, results in rows.items()
    ]
    header = [*(f"GT {part}" for part in PARTS), *MEASURES, "PQ gained"]
    return f"{num_images} images\n\n" + tabulate(lines, header, tablefmt="pipe", floatfmt=".1f")


def interpretation(rows: dict[tuple[str, ...], dict[str, float]]) -> str:
    """Which single replacement gains most, and what is missing when all are made."""
    quality = {row: results["PQ"] for row, results in rows.items()}
    single = {row[0]: value - quality[()] for row, value in quality.items() if len(row) == 1}
    best = max(single, key=single.get)
    others = ", ".join(f"{part} {gain:+.1f}" for part, gain in single.items() if part != best)
    left = 100 - quality[PARTS]
    text = f"Of the parts alone, ground truth for {best} gains most: {single[best]:+.1f} PQ ({others})."
    return f"{text} With all of them {left:.1f} PQ are still missing: masks, fusion, and resizing."


if __name__ == "__main__":
    run_cli(main)

"""Shows where a trained model loses panoptic quality: evaluates it with parts replaced by ground truth (UPSNet, table
6).

    panoptic-fusion oracle --model output/camvid --dataset camvid_val --output output/camvid/oracle

Ground truth takes the place of the boxes, of the instances' classes and of the semantic segmentation, alone and
together; masks and fusion stay the model's. panoptic_fusion/evaluation/oracle.py says what that means exactly. Printed
is a table with PQ of each, written is oracle.json with the classes as well.
"""

import argparse
import os
from collections.abc import Sequence

from .arguments import add_model, add_opts, check_at_least_one, check_model

HELP = "measure where a trained model loses quality, with ground truth in place of its parts"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the model, the data set and the folder."""
    add_model(parser)
    parser.add_argument("--dataset", required=True, help="a data set of the model's config, such as toy_val")
    parser.add_argument("--output", required=True, help="folder for oracle.json")
    parser.add_argument("--num-images", type=int, help="only so many, evenly spread over the data set")
    add_opts(parser)


def run(args: argparse.Namespace) -> None:
    """Runs the command line."""
    rows = oracle(
        args.model,
        args.config_file,
        dataset=args.dataset,
        output=args.output,
        num_images=args.num_images,
        opts=args.opts,
    )
    from panoptic_fusion.evaluation.oracle_study import interpretation, table

    path = os.path.join(args.output, "oracle.json")
    print(f"{table(rows)}\n\n{interpretation(rows)}\n\nwritten to {path}")


def oracle(
    model: str | None = None,
    config_file: str | None = None,
    *,
    dataset: str,
    output: str | os.PathLike,
    num_images: int | None = None,
    opts: Sequence[str] = (),
) -> dict[tuple[str, ...], dict[str, float]]:
    """Evaluates a trained model with parts replaced by ground truth and writes oracle.json.

    Args:
        model: OUTPUT_DIR of a training.
        config_file: instead of `model`: a config, such as one of two networks.
        dataset: a data set of the model's config, such as "toy_val".
        output: folder for oracle.json.
        num_images: only so many, evenly spread over the data set; default: all.
        opts: KEY, VALUE, KEY, VALUE, ... that change the config.

    Returns:
        {replaced parts, () for the model itself: {measure: number in percent, NaN where there is none}}.

    Raises:
        UserError, FileNotFoundError: nothing was evaluated; the message names what is wrong.
    """
    check_model(model, config_file)
    check_at_least_one(num_images, "--num-images")

    from panoptic_fusion.engine.preflight import check_writable
    from panoptic_fusion.evaluation.oracle_study import check_has_parts, evaluate_rows
    from panoptic_fusion.files import without_nan, write_json
    from panoptic_fusion.networks.trained import config_of, evenly_spread, images_of

    cfg = config_of(model, config_file, [*opts, "MODEL.PANOPTIC_FUSION.OUTPUTS", "['panoptic_seg']"])
    check_has_parts(cfg, str(model or config_file))
    dicts = images_of(cfg, dataset)
    check_writable(os.fspath(output), "--output")
    if num_images is not None:
        dicts = evenly_spread(dicts, num_images)
    rows = evaluate_rows(cfg, dataset, dicts)
    named = {"+".join(row) or "model": results for row, results in rows.items()}
    content = {"model": model or config_file, "dataset": dataset, "images": len(dicts), "replaced": named}
    os.makedirs(output, exist_ok=True)
    write_json(os.path.join(output, "oracle.json"), without_nan(content), indent=1)
    return rows

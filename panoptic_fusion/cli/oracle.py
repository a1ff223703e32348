"""Evaluates a trained model with parts of its predictions replaced by ground truth (UPSNet, table 6).

    panoptic-fusion oracle --model output/camvid --dataset camvid_val --output output/camvid/oracle

The results show where the model loses panoptic quality. Ground truth replaces the boxes, the classes of the instances
and the semantic segmentation, alone and together. Masks and fusion always come from the model. See
panoptic_fusion/evaluation/oracle.py for the exact definitions. The command prints a table with the PQ of each
combination, and writes oracle.json, which also has the results per class.
"""

import argparse
import os
from collections.abc import Sequence

from panoptic_fusion.errors import ConfigError

from .arguments import add_model, add_opts, check_at_least_one, check_model

HELP = "measure where a trained model loses quality, with ground truth in place of its parts"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the model, the dataset and the output folder."""
    add_model(parser)
    parser.add_argument("--dataset", required=True, help="a dataset of the model's config, such as toy_val")
    parser.add_argument("--output", required=True, help="folder for oracle.json")
    parser.add_argument("--num-images", type=int, help="only so many, evenly spread over the dataset")
    add_opts(parser)


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    rows = oracle(
        args.model,
        args.config_file,
        dataset=args.dataset,
        output=args.output,
        num_images=args.num_images,
        opts=args.opts,
        allow_download=args.allow_download,
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
    allow_download: bool = False,
) -> dict[tuple[str, ...], dict[str, float]]:
    """Evaluates a trained model with parts replaced by ground truth and writes oracle.json.

    Args:
        model: OUTPUT_DIR of a training run.
        config_file: config to use instead of `model`, for example with two networks.
        dataset: dataset in the model's config, such as "toy_val".
        output: folder for oracle.json.
        num_images: number of images, evenly spread over the dataset; default: all.
        opts: sequence KEY, VALUE, KEY, VALUE, ... that changes the config.
        allow_download: whether to download weights from any address in the config, see `check_downloads`.

    Returns:
        {replaced parts, () for the unmodified model: {metric: number in percent, or NaN}}.

    Raises:
        UserError, FileNotFoundError: nothing was evaluated; the message names the problem.
    """
    check_model(model, config_file)
    check_at_least_one(num_images, "--num-images")

    from panoptic_fusion.evaluation.oracle_study import check_has_parts, evaluate_rows
    from panoptic_fusion.files import check_writable, without_nan, write_json
    from panoptic_fusion.networks.trained import evenly_spread, load_config, load_eval_dicts

    words = [*opts, "MODEL.PANOPTIC_FUSION.OUTPUTS", "['panoptic_seg']"]
    cfg = load_config(model, config_file, words, allow_download=allow_download)
    check_has_parts(cfg, str(model or config_file))
    if cfg.TEST.AUG.ENABLED:
        raise ConfigError(
            "TEST.AUG.ENABLED is True, but the parts of one view are replaced: add TEST.AUG.ENABLED False"
        )
    dicts = load_eval_dicts(cfg, dataset)
    check_writable(os.fspath(output), "--output")
    if num_images is not None:
        dicts = evenly_spread(dicts, num_images)
    rows = evaluate_rows(cfg, dataset, dicts)
    named = {"+".join(row) or "model": results for row, results in rows.items()}
    content = {"model": model or config_file, "dataset": dataset, "images": len(dicts), "replaced": named}
    os.makedirs(output, exist_ok=True)
    write_json(os.path.join(output, "oracle.json"), without_nan(content), indent=1)
    return rows

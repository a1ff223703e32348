#!/usr/bin/env python
"""Trains every stuff head with every fusion for a few steps and writes one table of PQ: heads x fusions.

    python tools/mixtures_table.py --weights output/toy_baseline/model_final.pth --output output/mixtures

All runs start from the same trained network, the checkpoint of a baseline; only the baseline's own stuff head finds its
tensors in it. The runs differ only in MODEL.SEM_SEG_HEAD.NAME and MODEL.PANOPTIC_FUSION.NAME. KEY VALUE pairs at the
end of the command apply to all runs. All registered heads and fusions are used, so a new one automatically gets its row
or column. The runs form an ablation: FOLDER contains its spec.yaml, table.md, results.json and run folders, and
mixtures.md. Run the same command again to continue after an interruption.
"""

import argparse
import json
import os
import shlex
import sys
from pathlib import Path

import panoptic_fusion.networks  # noqa: F401  (registers the parts; first, to silence torch warnings)

# isort: split
import yaml
from detectron2.config import CfgNode
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY

from panoptic_fusion.cli.experiments.runs import run_spec
from panoptic_fusion.config import config_file, read_config
from panoptic_fusion.engine.preflight import check_writable
from panoptic_fusion.errors import run_cli
from panoptic_fusion.files import write_atomically
from panoptic_fusion.markdown import markdown_table
from panoptic_fusion.modeling import PANOPTIC_FUSION_REGISTRY


def registered() -> tuple[list[str], list[str]]:
    """Returns the names of this project's stuff heads and fusions."""
    heads = [name for name, head in SEM_SEG_HEADS_REGISTRY if head.__module__.startswith("panoptic_fusion")]
    return sorted(heads), sorted(name for name, _ in PANOPTIC_FUSION_REGISTRY)


def cell_name(head: str, fusion: str) -> str:
    """Returns the name of the run of one cell."""
    return f"{head} + {fusion}"


def build_spec(heads: list[str], fusions: list[str], args: argparse.Namespace) -> dict:
    """Returns the spec for `panoptic-fusion ablation` as a dict."""
    common = {
        "MODEL.WEIGHTS": str(args.weights.absolute()),
        "MODEL.ALLOW_SHAPE_MISMATCH": True,
        "SOLVER.MAX_ITER": args.iterations,
        "SOLVER.WARMUP_ITERS": args.iterations // 4,
        "TEST.EVALUATORS": "['panoptic']",
    }
    return {
        "base": str(args.config_file.absolute()),
        "seeds": [args.seed],
        "metrics": ["PQ"],
        "common": [word for pair in common.items() for word in pair] + args.opts,
        "runs": {
            cell_name(head, fusion): ["MODEL.SEM_SEG_HEAD.NAME", head, "MODEL.PANOPTIC_FUSION.NAME", fusion]
            for head in heads
            for fusion in fusions
        },
    }


def format_table(heads: list[str], fusions: list[str], results: dict, common: CfgNode) -> str:
    """Returns the results.json of the ablation as a Markdown table, or as one table per dataset if it has several."""

    tables = []
    for column in dict.fromkeys(name for run in results["runs"].values() for name in run["metrics"]):
        rows = []
        for head in heads:
            runs = [results["runs"][cell_name(head, fusion)]["metrics"].get(column, []) for fusion in fusions]
            rows.append([head, *(f"{run[0]:.1f}" if run and run[0] is not None else "failed" for run in runs)])
        tables.append(markdown_table(rows, [column, *fusions]))
    base = next(iter(results["runs"].values()))["config"]
    head = (
        f"Commit {', '.join(results['commits'])}; {results['machine']}; `{results['command']}`: base "
        f"`{os.path.relpath(base)}`, ontology {common.MODEL.SEM_SEG_HEAD.ONTOLOGY}, "
        f"{common.SOLVER.MAX_ITER} iterations of {common.SOLVER.IMS_PER_BATCH} images from "
        f"`{os.path.relpath(common.MODEL.WEIGHTS)}`"
    )
    return "\n\n".join([head, *tables]) + "\n"


def main() -> int:
    """Runs the tool; returns 1 if a cell failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="checkpoint that all cells start from")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs and of mixtures.md")
    parser.add_argument(
        "--config-file",
        type=Path,
        default=Path(config_file("toy/panoptic_fpn_r18.yaml")),
        help="what a cell does not set; default: the baseline on toy scenes",
    )
    parser.add_argument("--iterations", type=int, default=20, help="of each cell's training (default 20)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--num-gpus", type=int, default=1, help="as in `panoptic-fusion train`")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="set for all cells")
    args = parser.parse_args()
    if not args.weights.is_file():
        raise FileNotFoundError(f"--weights {args.weights} does not exist: train a baseline first")
    check_writable(str(args.output), "--output")
    args.output.mkdir(parents=True, exist_ok=True)
    heads, fusions = registered()
    spec = build_spec(heads, fusions, args)
    text = yaml.safe_dump(spec, sort_keys=False)
    write_atomically(args.output / "spec.yaml", lambda file: file.write(text.encode()))
    command = shlex.join(["python", os.path.relpath(sys.argv[0]), *sys.argv[1:]])
    failed = run_spec(args.output / "spec.yaml", args.output, args.num_gpus, command)
    common = read_config(args.config_file, spec["common"])
    table = format_table(heads, fusions, json.loads((args.output / "results.json").read_text()), common)
    write_atomically(args.output / "mixtures.md", lambda file: file.write(table.encode()))
    print(f"\n{table}\n{args.output / 'mixtures.md'}")
    return 1 if failed else 0


if __name__ == "__main__":
    run_cli(main)

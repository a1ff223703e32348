#!/usr/bin/env python
"""Trains every stuff head with every fusion for a few steps and writes one table: heads x fusions, PQ in each cell.

    python tools/mixtures_table.py --weights output/toy_baseline/model_final.pth --output output/mixtures

All start from the same trained network (the checkpoint of a baseline, in which a head finds its own tensors only if it
is the baseline's) and differ in MODEL.SEM_SEG_HEAD.NAME and MODEL.PANOPTIC_FUSION.NAME alone; KEY VALUE pairs at the
end of the command are set for all. What is registered is taken, so a new head or fusion gets its row or column by
itself. The runs are those of tools/ablation.py: FOLDER gets its spec.yaml, table.md and results.json and the runs'
folders, besides mixtures.md; the same command goes on after an interruption.
"""

import argparse
import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from panoptic_fusion.config.read import read_config  # noqa: E402  (first, as in demo.py)

# isort: split
import yaml  # noqa: E402
from ablation import run_spec  # noqa: E402
from detectron2.config import CfgNode  # noqa: E402
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY  # noqa: E402
from tabulate import tabulate  # noqa: E402

from panoptic_fusion.engine.preflight import check_writable  # noqa: E402
from panoptic_fusion.errors import run_cli  # noqa: E402
from panoptic_fusion.files import write_atomically  # noqa: E402
from panoptic_fusion.modeling import PANOPTIC_FUSION_REGISTRY  # noqa: E402


def registered() -> tuple[list[str], list[str]]:
    """The names of this project's stuff heads and fusions."""
    heads = [name for name, head in SEM_SEG_HEADS_REGISTRY if head.__module__.startswith("panoptic_fusion")]
    return sorted(heads), sorted(name for name, _ in PANOPTIC_FUSION_REGISTRY)


def cell_name(head: str, fusion: str) -> str:
    """The run of one cell."""
    return f"{head} + {fusion}"


def make_spec(heads: list[str], fusions: list[str], args: argparse.Namespace) -> dict:
    """The yaml of tools/ablation.py as a dict."""
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


def make_table(heads: list[str], fusions: list[str], results: dict, common: CfgNode) -> str:
    """The table in markdown, of the results.json of tools/ablation.py; with several data sets one table each."""
    tables = []
    for column in dict.fromkeys(name for run in results["runs"].values() for name in run["metrics"]):
        rows = []
        for head in heads:
            runs = [results["runs"][cell_name(head, fusion)]["metrics"].get(column, []) for fusion in fusions]
            rows.append([head, *(f"{run[0]:.1f}" if run and run[0] is not None else "failed" for run in runs)])
        tables.append(tabulate(rows, [column, *fusions], tablefmt="pipe", disable_numparse=True))
    base = next(iter(results["runs"].values()))["config"]
    head = (
        f"Commit {', '.join(results['commits'])}; {results['machine']}; `{results['command']}`: base "
        f"`{os.path.relpath(base)}`, ontology {common.MODEL.SEM_SEG_HEAD.ONTOLOGY}, "
        f"{common.SOLVER.MAX_ITER} iterations of {common.SOLVER.IMS_PER_BATCH} images from "
        f"`{os.path.relpath(common.MODEL.WEIGHTS)}`"
    )
    return "\n\n".join([head, *tables]) + "\n"


def main() -> int:
    """Runs the command line; 1 if a cell failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="checkpoint that all cells start from")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs and of mixtures.md")
    parser.add_argument(
        "--config-file",
        type=Path,
        default=ROOT / "configs" / "toy" / "panoptic_fpn_r18.yaml",
        help="what a cell does not set; default: the baseline on toy scenes",
    )
    parser.add_argument("--iterations", type=int, default=20, help="of each cell's training (default 20)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--num-gpus", type=int, default=1, help="as in train_net.py")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="set for all cells")
    args = parser.parse_args()
    if not args.weights.is_file():
        raise FileNotFoundError(f"--weights {args.weights} does not exist: train a baseline first")
    check_writable(str(args.output), "--output")
    heads, fusions = registered()
    spec = make_spec(heads, fusions, args)
    text = yaml.safe_dump(spec, sort_keys=False)
    write_atomically(args.output / "spec.yaml", lambda file: file.write(text.encode()))
    code = run_spec(args.output / "spec.yaml", args.output, args.num_gpus)
    common = read_config(args.config_file, spec["common"])
    table = make_table(heads, fusions, json.loads((args.output / "results.json").read_text()), common)
    write_atomically(args.output / "mixtures.md", lambda file: file.write(table.encode()))
    print(f"\n{table}\n{args.output / 'mixtures.md'}")
    return code


if __name__ == "__main__":
    run_cli(main)

#!/usr/bin/env python
"""Converts a checkpoint that the authors of a paper have published to weights for this project's configs.

    python tools/convert_checkpoint.py {seamseg,upsnet} IN OUT.pth [--config CONFIG.yaml]

OUT goes into MODEL.WEIGHTS. The config that fits is printed, or written with --config (its path to the base config is
then absolute). A tensor that is missing, left over or of another shape is an error that names it. No code in the file
is executed. docs/seamless.md and docs/upsnet.md say where the published files are and what to check.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from torch import Tensor  # noqa: E402

from panoptic_fusion.checkpoint import convert_seamseg, convert_upsnet  # noqa: E402
from panoptic_fusion.engine.preflight import check_writable  # noqa: E402
from panoptic_fusion.errors import UserError, run_cli  # noqa: E402
from panoptic_fusion.files import write_atomically  # noqa: E402


def seamseg(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a Seamless Scene Segmentation checkpoint and its config as yaml."""
    tensors, layout, settings = convert_seamseg.convert_seamseg(path)
    return tensors, convert_seamseg.describe(layout, settings)


def upsnet(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of an UPSNet checkpoint and its config as yaml."""
    tensors, layout = convert_upsnet.convert_upsnet(path)
    return tensors, convert_upsnet.describe(layout)


# Each takes the path of a published file and returns tensors by our names, and a yaml whose _BASE_ is a path below the
# root of the repository.
CONVERTERS: dict[str, Callable[[Path], tuple[dict[str, Tensor], str]]] = {"seamseg": seamseg, "upsnet": upsnet}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("format", choices=CONVERTERS, help="whose checkpoint it is")
    parser.add_argument("input", type=Path, metavar="IN")
    parser.add_argument("output", type=Path, metavar="OUT.pth")
    parser.add_argument("--config", type=Path, metavar="CONFIG.yaml", help="write the config here")
    args = parser.parse_args()
    if args.output.suffix != ".pth":
        raise UserError(f"{args.output}: the name of the output must end with .pth")
    for path in filter(None, (args.output, args.config)):
        check_writable(str(path.resolve().parent), f"{path}")
    tensors, config = CONVERTERS[args.format](args.input)
    config = config.replace('_BASE_: "configs/', f'_BASE_: "{ROOT}/configs/')
    config = config.replace("MODEL:\n", f'MODEL:\n  WEIGHTS: "{args.output.resolve()}"\n', 1)
    write_atomically(args.output, lambda file: torch.save({"model": tensors}, file))
    print(f"{len(tensors)} tensors converted to {args.output}")
    if args.config:
        write_atomically(args.config, lambda file: file.write(config.encode()))
        print(f"config written to {args.config}")
    else:
        print(f"the config that goes with it:\n\n{config}")


if __name__ == "__main__":
    run_cli(main)

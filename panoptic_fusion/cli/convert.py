"""Converts a checkpoint published by the authors of a paper to weights for this project's configs.

    panoptic-fusion convert {seamseg,upsnet} IN OUT.pth [--config CONFIG.yaml]

Set MODEL.WEIGHTS to OUT. The matching config is printed, or written with --config (its path to the base config is then
absolute). A tensor that is missing, unexpected or of a different shape is reported as an error. No code in the file is
executed. See docs/seamless.md and docs/upsnet.md for the locations of the published files and for what to check.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from panoptic_fusion.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

HELP = "convert a published checkpoint to this project's weights"

FORMATS = ("seamseg", "upsnet")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the format and the files."""
    parser.add_argument("format", choices=FORMATS, help="whose checkpoint it is")
    parser.add_argument("input", type=Path, metavar="IN", help="the published file")
    parser.add_argument("output", type=Path, metavar="OUT.pth", help="the file to write")
    parser.add_argument("--config", type=Path, metavar="CONFIG.yaml", help="write the config here")


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    count, config = convert(args.format, args.input, args.output, config=args.config)
    print(f"{count} tensors converted to {args.output}")
    if args.config:
        print(f"config written to {args.config}")
    else:
        print(f"the config for it:\n\n{config}")


def convert(
    format: str, input: str | os.PathLike, output: str | os.PathLike, *, config: str | os.PathLike | None = None
) -> tuple[int, str]:
    """Converts a published checkpoint.

    Args:
        format: "seamseg" or "upsnet".
        input: path to the published file.
        output: path NAME.pth of the file to write, for MODEL.WEIGHTS.
        config: path to which the matching config is also written.

    Returns:
        The number of tensors, and the matching config as YAML.

    Raises:
        UserError, FileNotFoundError: nothing was written; the message names the file, or the tensor that is missing,
            unexpected or of a different shape.
    """
    output = Path(output)
    if output.suffix != ".pth":
        raise UserError(f"{output}: the name of the output must end with .pth")

    import torch

    from panoptic_fusion.checkpoint.class_rows import PANOPTIC_FUSION, ClassRows
    from panoptic_fusion.checkpoint.loaded_weights import MARK, mark
    from panoptic_fusion.config.defaults import config_root
    from panoptic_fusion.data.datasets import BUILTIN
    from panoptic_fusion.files import check_writable, write_atomically

    for path in (output, *([Path(config)] if config else [])):
        check_writable(str(path.absolute().parent), f"{path}")
    tensors, text, dataset = _read(format, Path(input))
    text = text.replace('_BASE_: "configs/', f'_BASE_: "{config_root()}/')
    text = text.replace("MODEL:\n", f'MODEL:\n  WEIGHTS: "{output.absolute()}"\n', 1)
    rows = ClassRows(PANOPTIC_FUSION, BUILTIN[dataset].label_space() if dataset else None, "full")
    write_atomically(output, lambda file: torch.save({"model": tensors, MARK: mark(rows)}, file))
    if config:
        write_atomically(config, lambda file: file.write(text.encode()))
    return len(tensors), text


def _read(format: str, path: Path) -> tuple[dict[str, Tensor], str, str | None]:
    """Returns the tensors under this project's names, a YAML config, and the dataset of their classes if it is known.

    The _BASE_ of the config is "configs/...".
    """
    from panoptic_fusion.checkpoint import convert_seamseg, convert_upsnet

    if format == "seamseg":
        tensors, layout, settings = convert_seamseg.convert_seamseg(path)
        dataset = convert_seamseg.CONFIGS.get((layout.num_stuff, layout.num_things))
        return tensors, convert_seamseg.describe(layout, settings), dataset
    if format == "upsnet":
        tensors, upsnet_layout = convert_upsnet.convert_upsnet(path)
        return tensors, convert_upsnet.describe(upsnet_layout), upsnet_layout.dataset
    raise UserError(f"format {format!r} is unknown; available: {', '.join(FORMATS)}")

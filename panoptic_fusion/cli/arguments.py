"""Arguments that several commands have, and their checks."""

import argparse
from typing import Any

from panoptic_fusion.errors import UserError


def add_opts(parser: argparse.ArgumentParser, name: str = "opts") -> None:
    """Adds the KEY VALUE pairs that end a command line, as `opts`."""
    parser.add_argument(
        name, nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="pairs that change the config"
    )


def add_model(parser: argparse.ArgumentParser) -> None:
    """Adds --model and --config-file, one of which names a trained model."""
    parser.add_argument("--model", help="OUTPUT_DIR of a training: its config.yaml and last checkpoint are used")
    parser.add_argument("--config-file", help="instead of --model: a config; the weights are its MODEL.WEIGHTS")


def check_model(model: str | None, config_file: str | None) -> None:
    """Checks that a trained model is named.

    Raises:
        UserError: it is not.
    """
    if not model and not config_file:
        raise UserError("give --model (the OUTPUT_DIR of a training run), or --config-file and MODEL.WEIGHTS FILE")


def add_plugins(parser: argparse.ArgumentParser) -> None:
    """Adds --plugin, which names a module that adds parts and config keys (docs/extending.md)."""
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="MODULE",
        help="a module that adds parts and config keys, as after `import`; can be given more than once",
    )


def add_launcher(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of detectron2's launcher: how many processes run, and where."""
    parser.add_argument(
        "--num-gpus", type=int, default=1, help="number of GPUs on each machine; without a GPU: of CPU processes"
    )
    parser.add_argument("--num-machines", type=int, default=1, help="number of machines")
    parser.add_argument("--machine-rank", type=int, default=0, help="number of this machine, from 0")
    parser.add_argument(
        "--dist-url", default="auto", help='where the processes meet, such as "tcp://HOST:PORT"; default: a free port'
    )


def launcher_of(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the keyword arguments that the arguments of `add_launcher` stand for."""
    return {name: getattr(args, name) for name in ("num_gpus", "num_machines", "machine_rank", "dist_url")}


def check_at_least_one(number: int | None, name: str) -> None:
    """Checks a count.

    Raises:
        UserError: it is below 1; None is allowed.
    """
    if number is not None and number < 1:
        raise UserError(f"{name} is {number}: use 1 or more")

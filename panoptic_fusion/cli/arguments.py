"""Arguments that several commands share, and their checks."""

import argparse
import io
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from panoptic_fusion.errors import UserError


def add_opts(parser: argparse.ArgumentParser, name: str = "opts") -> None:
    """Adds the KEY VALUE pairs at the end of a command line, as `opts`."""
    parser.add_argument(
        name, nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="pairs that change the config"
    )


def add_model(parser: argparse.ArgumentParser) -> None:
    """Adds --model and --config-file, the two ways to select a trained model."""
    parser.add_argument(
        "--model", help="OUTPUT_DIR of a training run: its config.yaml, and its best checkpoint or else its last one"
    )
    parser.add_argument("--config-file", help="instead of --model: a config; the weights are its MODEL.WEIGHTS")
    add_allow_download(parser)


def add_zoo(parser: argparse.ArgumentParser) -> None:
    """Adds --zoo and --weights, which select a model of detectron2's zoo instead of a trained one."""
    parser.add_argument("--zoo", metavar="NAME", help="instead of --model: a model of detectron2's zoo (downloaded)")
    parser.add_argument("--weights", metavar="FILE", help="with --zoo: a file to use instead of the download")


def add_allow_download(parser: argparse.ArgumentParser) -> None:
    """Adds the argument --allow-download."""
    parser.add_argument(
        "--allow-download",
        action="store_true",
        help="download weights from any address that the config names, not from detectron2's model zoo only",
    )


def check_model(model: str | None, config_file: str | None, *others: str) -> None:
    """Checks that a trained model is specified.

    Args:
        model: --model, if given.
        config_file: --config-file, if given.
        others: options that the command accepts instead of a trained model, for the message.

    Raises:
        UserError: neither argument is given.
    """
    if not model and not config_file:
        ways = ("--model (the OUTPUT_DIR of a training run)", "--config-file and MODEL.WEIGHTS FILE", *others)
        raise UserError(f"pass {', or '.join(ways)}")


def add_plugins(parser: argparse.ArgumentParser) -> None:
    """Adds --plugin, which imports a module that adds parts and config keys (docs/extending.md)."""
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="MODULE",
        help="a module that adds parts and config keys, as after `import`; can be given more than once",
    )


def add_launcher(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of detectron2's launcher, which set the number of processes and machines."""
    parser.add_argument(
        "--num-gpus", type=int, default=1, help="number of GPUs on each machine; without a GPU: of CPU processes"
    )
    parser.add_argument("--num-machines", type=int, default=1, help="number of machines")
    parser.add_argument("--machine-rank", type=int, default=0, help="number of this machine, from 0")
    parser.add_argument(
        "--dist-url", default="auto", help='where the processes meet, such as "tcp://HOST:PORT"; default: a free port'
    )


def launcher_of(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the arguments of `add_launcher` as keyword arguments."""
    return {name: getattr(args, name) for name in ("num_gpus", "num_machines", "machine_rank", "dist_url")}


def check_file_options(args: argparse.Namespace, verb: str, needed: Sequence[str], others: Mapping[str, Any]) -> None:
    """Checks a command line that names files of any model in place of a trained model.

    Args:
        args: parsed arguments, with the KEY VALUE pairs of `add_opts`.
        verb: what the command does with the files, for messages.
        needed: names of the required options, the first of which stands for all in messages.
        others: {name of an option of trained models: its default}.

    Raises:
        UserError: an option of trained models is given, or a required option is missing.
    """
    given = [_option(name) for name, default in others.items() if getattr(args, name) != default]
    if given or args.opts:
        words = ", ".join([*given, *args.opts[:1]])
        raise UserError(f"{_option(needed[0])} and the options with it {verb} files: leave out {words}")
    missing = [_option(name) for name in needed if not getattr(args, name)]
    if missing:
        raise UserError(f"without a trained model, the command also needs {', '.join(missing)}")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def check_at_least_one(number: int | None, name: str) -> None:
    """Checks that a number is at least 1; None is allowed.

    Raises:
        UserError: the number is below 1.
    """
    if number is not None and number < 1:
        raise UserError(f"{name} is {number}: use 1 or more")


def escape_unencodable() -> None:
    """Makes stdout escape what its encoding lacks: a file or class name must not stop a report."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")

"""Entry point of the command line: parses the arguments and runs the module of the command."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

import panoptic_fusion
from panoptic_fusion.children import end_with_parent
from panoptic_fusion.errors import INSTALL_DETECTRON2, UserError, run_cli
from panoptic_fusion.other_packages import silence_other_packages

from .arguments import add_plugins

PROG = "panoptic-fusion"

# Module of each command.
COMMANDS = {
    "train": "panoptic_fusion.cli.train",
    "evaluate": "panoptic_fusion.cli.evaluate",
    "report": "panoptic_fusion.cli.report",
    "demo": "panoptic_fusion.cli.demo",
    "compare": "panoptic_fusion.cli.compare",
    "check": "panoptic_fusion.cli.check",
    "prepare": "panoptic_fusion.cli.prepare",
    "import": "panoptic_fusion.cli.import_annotations",
    "convert": "panoptic_fusion.cli.convert",
    "export": "panoptic_fusion.cli.export",
    "fine-tune": "panoptic_fusion.cli.fine_tune",
    "fuse": "panoptic_fusion.cli.fuse_files",
    "oracle": "panoptic_fusion.cli.oracle",
    "tune": "panoptic_fusion.cli.tune",
    "ablation": "panoptic_fusion.cli.ablation",
    "leaderboard": "panoptic_fusion.cli.leaderboard",
}

WITHOUT_CONFIG = ("prepare", "convert")  # commands that plugins cannot extend


def main(words: Sequence[str] | None = None) -> NoReturn:
    """Runs a command line and exits with its exit code; errors that users can fix are one line, with exit code 2.

    Args:
        words: arguments after the program's name; default: the arguments of this process.
    """
    words = list(sys.argv[1:] if words is None else words)
    if not words or words[0] not in COMMANDS:
        overview().parse_args(words)  # --help, --version, or the error that lists the commands
        raise AssertionError("unreachable: the overview's parser accepts commands only")
    name, module = words[0], importlib.import_module(COMMANDS[words[0]])
    args = parser_of(name, module).parse_args(words[1:])
    end_with_parent()
    # Read when torch is loaded, so that idle OpenMP threads leave their cores to the data loader's processes.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    silence_other_packages()
    run_cli(lambda: _run(module, args), f"{PROG} {name}")


def overview() -> argparse.ArgumentParser:
    """Returns the parser for a command line without a command; its help lists all commands."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:{width}}{importlib.import_module(COMMANDS[name]).HELP}" for name in COMMANDS]
    parser = argparse.ArgumentParser(
        prog=PROG,
        usage=f"{PROG} [--help] [--version] COMMAND ...",
        description=f"Panoptic segmentation on detectron2: TASCNet, Seamless, UPSNet and OANet.\n\ncommands:\n"
        f"{chr(10).join(lines)}",
        epilog=f"`{PROG} COMMAND --help` shows the options of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"{PROG} {panoptic_fusion.__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of the commands above")
    return parser


def parser_of(name: str, module: ModuleType) -> argparse.ArgumentParser:
    """Returns the parser of one command; its help starts with the docstring of the command's module."""
    parser = argparse.ArgumentParser(
        prog=f"{PROG} {name}", description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    module.add_arguments(parser)
    if name not in WITHOUT_CONFIG:
        add_plugins(parser)
    return parser


def _run(module: ModuleType, args: argparse.Namespace) -> int | None:
    try:
        plugins = vars(args).pop("plugin", None)  # commands do not use the plugins
        if plugins:
            panoptic_fusion.load_plugins(plugins)
        return module.run(args)
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if package == "detectron2":
            raise UserError(INSTALL_DETECTRON2) from error
        if package == "torch":
            raise UserError(f"torch is not installed: only `{PROG} demo --onnx` runs without it") from error
        raise

"""Command-line interface `panoptic-fusion <command>`, with one module per command.

A module is imported when its command is chosen. It has `HELP` (one line), `add_arguments(parser)`, `run(args)` and a
documented function of the same name for Python users, such as `panoptic_fusion.cli.demo.demo` (also
`panoptic_fusion.demo`). It imports torch, detectron2, OpenCV and numpy only inside functions, so that `--help` and
usage errors appear immediately.
"""

from .entry import COMMANDS, main

__all__ = ["COMMANDS", "main"]

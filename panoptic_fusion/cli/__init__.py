"""The command line: `panoptic-fusion <command>`. One module per command, imported when its command is chosen.

A command's module has `HELP` (one line), `add_arguments(parser)`, `run(args)` and a documented function of the same
name for Python users, such as `panoptic_fusion.cli.demo.demo` (also `panoptic_fusion.demo`). It imports torch,
detectron2, OpenCV and numpy inside functions only, so that `--help` and usage errors come at once.
"""

from .entry import COMMANDS, main

__all__ = ["COMMANDS", "main"]

"""Runs the command line in a process of its own."""

import subprocess
import sys
from typing import Any


def start(*words: str, **options: Any) -> subprocess.Popen:
    """Starts `panoptic-fusion WORDS`, with the interpreter of this process.

    Args:
        words: a command and its arguments.
        options: further arguments of `subprocess.Popen`.
    """
    return subprocess.Popen(command_line(*words), **options)


def command_line(*words: str) -> list[str]:
    """Returns the words that start `panoptic-fusion WORDS` with the interpreter of this process."""
    return [sys.executable, "-m", "panoptic_fusion", *words]

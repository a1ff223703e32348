"""Runs the command line in a child process."""

import subprocess
import sys
from typing import Any

from panoptic_fusion.children import run_child, start_child


def start(*words: str, **options: Any) -> subprocess.Popen:
    """Starts `panoptic-fusion WORDS` with the interpreter of this process; the child ends when this process ends.

    Args:
        words: command and its arguments.
        options: forwarded to `subprocess.Popen`.
    """
    return start_child(command_line(*words), **options)


def run(*words: str) -> int:
    """Runs `panoptic-fusion WORDS` in a child process and returns its exit code."""
    return run_child(command_line(*words))


def command_line(*words: str) -> list[str]:
    """Returns the command that runs `panoptic-fusion WORDS` with the interpreter of this process."""
    return [sys.executable, "-m", "panoptic_fusion", *words]

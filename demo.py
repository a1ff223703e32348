#!/usr/bin/env python
"""`panoptic-fusion demo` under the name that detectron2's projects use, with the same arguments."""

import sys
from typing import Any

from panoptic_fusion.cli import main

__all__ = ["main"]  # also `read_frames`: the images exactly as the command reads them


def __getattr__(name: str) -> Any:
    """Imports `read_frames` on first access, because it loads torch, which must find what `main` sets up."""
    if name != "read_frames":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from panoptic_fusion.data.frames import read_frames

    return read_frames


if __name__ == "__main__":
    main(["demo", *sys.argv[1:]])

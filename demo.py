#!/usr/bin/env python
"""`panoptic-fusion demo` under the name that detectron2's projects use, with the same arguments."""

import sys

from panoptic_fusion.cli import main
from panoptic_fusion.data.frames import read_frames

__all__ = ["main", "read_frames"]  # `import demo` also provides the images exactly as the command reads them

if __name__ == "__main__":
    main(["demo", *sys.argv[1:]])

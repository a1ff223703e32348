#!/usr/bin/env python
"""`panoptic-fusion demo` under the name that detectron2's projects give it, with the same arguments."""

import sys

from panoptic_fusion.cli import main
from panoptic_fusion.data.frames import read_frames

__all__ = ["main", "read_frames"]  # what `import demo` offers: the images exactly as the command sees them

if __name__ == "__main__":
    main(["demo", *sys.argv[1:]])

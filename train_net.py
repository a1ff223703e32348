#!/usr/bin/env python
"""`panoptic-fusion train` under the name that detectron2's projects use, with the same arguments."""

import sys

from panoptic_fusion.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])

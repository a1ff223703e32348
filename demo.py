#!/usr/bin/env python
"""`panoptic-fusion demo` under the name that detectron2's projects give it, with the same arguments."""

import sys

from panoptic_fusion.cli import main

if __name__ == "__main__":
    main(["demo", *sys.argv[1:]])

"""`python -m panoptic_fusion`: the command line, even if the script `panoptic-fusion` is not on the PATH."""

from panoptic_fusion.cli import main

if __name__ == "__main__":
    main()

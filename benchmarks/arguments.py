"""Command lines of the benchmarks: the option --quick."""

import argparse
import importlib.util
from typing import Any


def parse_arguments(parser: argparse.ArgumentParser, **quick: Any) -> argparse.Namespace:
    """Parses the command line; `--quick` replaces the defaults by `quick`, but not values given on the command line."""
    parser.add_argument("--quick", action="store_true", help="tiny sizes on the CPU: shows that it runs, no figures")
    if parser.parse_known_args()[0].quick:
        parser.set_defaults(**quick)
    return parser.parse_args()


def has_panopticapi() -> bool:
    """Returns whether the reference code is installed; if not, prints how to install it."""
    if importlib.util.find_spec("panopticapi") is not None:
        return True
    print("panopticapi is not installed: `make setup`, or pip install --no-deps panopticapi-lite==0.2.0")
    return False

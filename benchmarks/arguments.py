"""Command lines of the benchmarks: the option --quick."""

import argparse
from typing import Any


def parse_arguments(parser: argparse.ArgumentParser, **quick: Any) -> argparse.Namespace:
    """Parses the command line; `--quick` replaces the defaults by `quick`, but not values given on the command line."""
    parser.add_argument("--quick", action="store_true", help="tiny sizes on the CPU: shows that it runs, no figures")
    if parser.parse_known_args()[0].quick:
        parser.set_defaults(**quick)
    return parser.parse_args()

"""Length of the seeded fuzzes: `make soak` makes them longer."""

import os


def fuzz_length(number: int) -> int:
    """Returns how often a fuzz tries: `number`, times FUZZ_FACTOR of the environment."""
    return number * int(os.environ.get("FUZZ_FACTOR", "1"))

"""What an attack is made of: attempts, each with a place of its own and a result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .material import Material


@dataclass(frozen=True)
class Place:
    """Where an attempt works: the inputs, which it must not change, and an empty folder of its own."""

    material: Material
    folder: Path
    seed: int


@dataclass(frozen=True)
class Attempt:
    """One attempt, repeated only if it failed or was interrupted.

    Attributes:
        row: row of the table that counts it.
        case: its name, unique in the row.
        run: does it; returns how often something was tried and a figure for the table, or raises AttackFailed.
    """

    row: str
    case: str
    run: Callable[[Place], tuple[int, str]]

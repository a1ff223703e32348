"""Rules for the value of a config key: a predicate, and its description in words."""

import math
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rule:
    """Rule for a value.

    holds: returns whether a value, of any type, is accepted.
    words: description of the accepted values that completes "use ...".
    """

    holds: Callable[[Any], bool]
    words: str


def only(holds: Callable[[Any], bool], words: str) -> Rule:
    """Returns the rule that accepts the values for which `holds` is true and raises no TypeError."""

    def holds_for_any(value: Any) -> bool:
        try:
            return holds(value)
        except TypeError:  # None, which any key can be set to, cannot be compared with a number
            return False

    return Rule(holds_for_any, words)


def whole(low: int, high: int | None = None, note: str = "") -> Rule:
    """Returns the rule that accepts the integers from `low` to `high`, both included; None: no limit."""
    words = f"{low} or more" if high is None else f"{low} or more, at most {high}"
    return Rule(lambda v: type(v) is int and low <= v and (high is None or v <= high), words + note)


def number(low: float = -math.inf, high: float = math.inf, *, above: float = -math.inf, words: str) -> Rule:
    """Returns the rule that accepts the finite numbers in [low, high] that are greater than `above`."""
    return Rule(lambda v: _is_number(v) and low <= v <= high and v > above, words)


def choice(*names: str) -> Rule:
    """Returns the rule that accepts the given names."""
    return Rule(lambda v: isinstance(v, str) and v in names, f"one of {', '.join(map(repr, names))}")


def each(rule: Rule, words: str, *, length: int | Collection[int] | None = None, ascending: bool = False) -> Rule:
    """Returns the rule that accepts lists and tuples whose elements all fulfill `rule`.

    Args:
        rule: rule for the elements.
        words: description of the whole list.
        length: accepted length or lengths; None: any, including 0.
        ascending: whether each element must be greater than the previous one.
    """
    lengths = (length,) if isinstance(length, int) else length

    def holds(value: Any) -> bool:
        if not isinstance(value, (list, tuple)) or not (lengths is None or len(value) in lengths):
            return False
        if not all(rule.holds(element) for element in value):
            return False
        return not ascending or all(a < b for a, b in zip(value, value[1:], strict=False))

    return Rule(holds, words)


def either(*rules: Rule, words: str) -> Rule:
    """Returns the rule that accepts the values that at least one of the rules accepts."""
    return Rule(lambda v: any(rule.holds(v) for rule in rules), words)


NONE = only(lambda v: v is None, "None")
FLAG = only(lambda v: type(v) is bool, "True or False")
NAME = only(lambda v: isinstance(v, str) and 0 < len(v) < 1000 and v.isprintable(), "a name")
TEXT = only(lambda v: isinstance(v, str), "a text")
PATH = only(lambda v: isinstance(v, str) and len(v) < 1000 and (v.isprintable() or not v), "a path")
ENTRY = only(lambda v: isinstance(v, dict), "a mapping")
DEVICE = only(
    lambda v: isinstance(v, str) and re.fullmatch(r"cpu|meta|cuda(:\d{1,3})?", v) is not None, "cpu, cuda or cuda:N"
)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)

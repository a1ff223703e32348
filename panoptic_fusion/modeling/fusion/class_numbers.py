"""Numbering of the stuff and thing classes in a caller's label maps, logits, instances and results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor

from panoptic_fusion.errors import UserError

LARGEST_TABLE = 2**16  # entries of a lookup table, which is faster than a binary search
MAX_ID = torch.iinfo(torch.int64).max


@dataclass(frozen=True)
class ClassNumbers:
    """Numbering of S stuff and T thing classes.

    Two conventions:

    - Counts, as in this project's networks: instances have the classes 0..T-1, and stuff has 0..S-1. Semantic channels
      are stuff first, then things: S + T, or S + 1 with one channel for all things, or S without things.
    - Category ids: one number per class for semantic channels, instances and results. Channels and labels with other
      numbers do not belong to a class.

    Attributes:
        stuff, things: category ids, or 0..S-1 and 0..T-1.
        are_counts: whether the first convention is used.
    """

    stuff: tuple[int, ...]
    things: tuple[int, ...]
    are_counts: bool

    @classmethod
    def of(cls, stuff_classes: int | Sequence[int], thing_classes: int | Sequence[int]) -> ClassNumbers:
        """Builds the numbering from two counts or two sequences of category ids.

        Raises:
            UserError: only one of them is a count, a number is negative, or an id occurs twice.
        """
        values = {"stuff_classes": stuff_classes, "thing_classes": thing_classes}
        are_counts = [_is_integer(value) for value in values.values()]
        if are_counts[0] != are_counts[1]:
            raise UserError(
                f"stuff_classes is {stuff_classes!r} and thing_classes is {thing_classes!r}: pass two counts or two "
                "sequences of category ids"
            )
        ids = [_as_ids(name, value) for name, value in values.items()]
        if not are_counts[0] and len(set(ids[0] + ids[1])) < len(ids[0] + ids[1]):
            raise UserError(
                f"stuff_classes {list(ids[0])} and thing_classes {list(ids[1])} share a category id or repeat one: "
                "each class needs its own id"
            )
        return cls(ids[0], ids[1], are_counts[0])

    @property
    def num_stuff(self) -> int:
        """Number of stuff classes, S."""
        return len(self.stuff)

    @property
    def num_things(self) -> int:
        """Number of thing classes, T."""
        return len(self.things)

    def channel_order(self, num_channels: int) -> tuple[list[int] | None, int]:
        """Returns the order in which semantic channels are stuff, then things, then channels without a class.

        Args:
            num_channels: C, the number of channels of the semantic logits.

        Returns:
            The C channels in that order, or None if they already have it; and the number of thing channels.

        Raises:
            UserError: the number of channels does not match the classes.
        """
        stuff, things = self.num_stuff, self.num_things
        if self.are_counts:
            fitting = (stuff, stuff + 1, stuff + things) if things else (stuff,)
            if num_channels not in fitting:
                raise UserError(
                    f"sem_seg has {num_channels} channels, but {stuff} stuff and {things} thing classes need "
                    f"{' or '.join(map(str, dict.fromkeys(fitting)))} (stuff first); pass category ids in place of "
                    "counts if the channels are in another order"
                )
            return None, num_channels - stuff
        missing = [i for i in self.stuff if i >= num_channels]
        if missing:
            raise UserError(
                f"sem_seg has {num_channels} channels, but stuff_classes has the id {missing[0]}: category ids are "
                "numbers of channels"
            )
        things_first = [i for i in self.things if i < num_channels]
        order = [*self.stuff, *things_first]
        order += sorted(set(range(num_channels)) - set(order))
        return (None if order == list(range(num_channels)) else order), len(things_first)

    def label_channels(self, labels: Tensor) -> Tensor:
        """Converts a label map to channels: stuff 0..S-1, things S..S+T-1, S+T for other labels.

        Args:
            labels: (H, W) label map of any integer dtype.

        Returns:
            (H, W) int64.
        """
        num_classes = self.num_stuff + self.num_things
        numbers = tuple(range(num_classes)) if self.are_counts else self.stuff + self.things
        return _look_up(labels, numbers, absent=num_classes)

    def thing_numbers(self, classes: Tensor) -> Tensor:
        """Converts the classes of instances (R,) to 0..T-1, int64.

        Raises:
            UserError: an instance has a class that is not a thing class.
        """
        result = _look_up(classes, self.things, absent=-1)
        if (result < 0).any():
            row = int((result < 0).nonzero()[0])
            known = f"0 to {self.num_things - 1}" if self.are_counts else list(self.things)
            raise UserError(
                f"classes: instance {row} has the class {int(classes[row])}, which is not a thing class ({known}); "
                "leave such instances out"
            )
        return result

    def named(self, segments_info: list[dict]) -> list[dict]:
        """Converts the category ids in segments_info to the caller's numbers."""
        if self.are_counts:
            return segments_info
        return [
            {**s, "category_id": (self.things if s["isthing"] else self.stuff)[s["category_id"]]} for s in segments_info
        ]


def _is_integer(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _as_ids(name: str, value: int | Sequence[int]) -> tuple[int, ...]:
    items = [value] if _is_integer(value) else list(value)
    if not all(_is_integer(item) and 0 <= item <= MAX_ID for item in items):
        raise UserError(f"{name} is {value!r}: pass a count or a sequence of category ids, integers in [0, 2^63)")
    return tuple(range(value)) if _is_integer(value) else tuple(int(item) for item in items)


def _look_up(values: Tensor, numbers: Sequence[int], absent: int) -> Tensor:
    """Replaces each value by its position in `numbers` (>= 0), or `absent`: int64 of the same shape."""
    values, device = values.long(), values.device
    last = max(numbers, default=-1) + 1
    if last <= LARGEST_TABLE:
        table = torch.full((last + 1,), absent)
        for position, number in enumerate(numbers):
            table[number] = position
        return table.to(device)[torch.where((values >= 0) & (values < last), values, last)]
    known = sorted((number, position) for position, number in enumerate(numbers))
    sorted_numbers, positions = torch.tensor([*known, (MAX_ID, absent)], device=device).T.contiguous()
    place = torch.searchsorted(sorted_numbers, values)
    return torch.where(sorted_numbers[place] == values, positions[place], absent)

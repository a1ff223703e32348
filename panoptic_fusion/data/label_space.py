"""The label space: which classes are things and stuff, and the semantic channel of each class.

Things are numbered 0..T-1, stuff 0..S-1, both in ascending order of the category id in the dataset's JSON. Two JSON
files that list the same categories in a different order therefore give the same numbers.
Semantic channels are stuff first, then things: stuff s has channel s; thing t has channel S+t in the ontology `full`,
channel S in `collapsed` (one channel for all things), and no channel (`IGNORE_LABEL`) in `stuff`.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from ..errors import ConfigError, UserError

ONTOLOGIES = ("full", "collapsed", "stuff")
IGNORE_LABEL = 255

Color = tuple[int, int, int]


def check_ontology(ontology: str) -> None:
    """Raises ConfigError unless `ontology` is one of `ONTOLOGIES`."""
    if ontology not in ONTOLOGIES:
        raise ConfigError(f"unknown ontology {ontology!r}: MODEL.SEM_SEG_HEAD.ONTOLOGY is one of {ONTOLOGIES}")


@dataclass(frozen=True)
class LabelSpace:
    """The classes of a dataset.

    `thing_ids` and `stuff_ids` are the category ids in the dataset's JSON, ascending; the colors are RGB in 0..255.
    A space without things or without stuff is allowed; a space without any class is not. Raises UserError if the tuples
    are inconsistent, or if an id or a name occurs twice.
    """

    thing_classes: tuple[str, ...]
    stuff_classes: tuple[str, ...]
    thing_colors: tuple[Color, ...]
    stuff_colors: tuple[Color, ...]
    thing_ids: tuple[int, ...]
    stuff_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        for kind in ("thing", "stuff"):
            names, colors, ids = (getattr(self, f"{kind}_{what}") for what in ("classes", "colors", "ids"))
            if not len(names) == len(colors) == len(ids):
                raise UserError(
                    f"a label space needs as many {kind} classes ({len(names)}) as {kind} colors ({len(colors)}) "
                    f"and {kind} ids ({len(ids)})"
                )
            if any(a >= b for a, b in zip(ids, ids[1:], strict=False)):
                raise UserError(f"the {kind} ids of a label space must ascend, but are {list(ids)}")
        if not self.thing_ids and not self.stuff_ids:
            raise UserError("no categories: a label space needs at least one thing or stuff class")
        _reject_duplicates("category id", self.thing_ids + self.stuff_ids)
        _reject_duplicates("category name", self.thing_classes + self.stuff_classes)

    # -- sizes and channels ------------------------------------------------------------------------------------------

    @property
    def num_things(self) -> int:
        """Returns T, the number of thing classes."""
        return len(self.thing_classes)

    @property
    def num_stuff(self) -> int:
        """Returns S, the number of stuff classes."""
        return len(self.stuff_classes)

    def num_channels(self, ontology: str) -> int:
        """Returns the number C of semantic channels: S+T (`full`), S+1 (`collapsed`), S (`stuff`).

        Raises UserError for an unknown ontology, and if the channels do not fit below `IGNORE_LABEL`.
        """
        check_ontology(ontology)
        num = self._sizes()[ontology]
        if num > IGNORE_LABEL:
            fitting = " or ".join(map(repr, self.fitting_ontologies()))
            remedy = f"set MODEL.SEM_SEG_HEAD.ONTOLOGY to {fitting}" if fitting else "merge stuff classes"
            raise UserError(
                f"ontology {ontology!r} needs {num} channels for {self.num_things} thing and {self.num_stuff} stuff "
                f"classes, but at most {IGNORE_LABEL} are possible; {remedy}"
            )
        return num

    def fitting_ontologies(self) -> tuple[str, ...]:
        """Returns the ontologies whose channels fit below `IGNORE_LABEL` and that have at least one."""
        return tuple(ontology for ontology, num in self._sizes().items() if 0 < num <= IGNORE_LABEL)

    def _sizes(self) -> dict[str, int]:
        """Returns the number of channels of each ontology."""
        return {"full": self.num_stuff + self.num_things, "collapsed": self.num_stuff + 1, "stuff": self.num_stuff}

    def same_classes(self, other: LabelSpace) -> bool:
        """Returns whether both have the same things and stuff, by id and name; colors do not matter."""
        return all(
            getattr(self, f"{kind}_{what}") == getattr(other, f"{kind}_{what}")
            for kind in ("thing", "stuff")
            for what in ("ids", "classes")
        )

    def sem_seg_channel(self, category_id: int, isthing: bool, ontology: str) -> int:
        """Returns the semantic channel of a class; `IGNORE_LABEL` for things in the ontology `stuff`.

        `category_id` is contiguous: 0..T-1 if `isthing`, else 0..S-1. Raises UserError outside this range.
        """
        check_ontology(ontology)
        num = self.num_things if isthing else self.num_stuff
        if not 0 <= category_id < num:
            raise UserError(f"no {'thing' if isthing else 'stuff'} class {category_id}: there are {num}")
        if not isthing:
            return int(category_id)
        return {"full": self.num_stuff + int(category_id), "collapsed": self.num_stuff, "stuff": IGNORE_LABEL}[ontology]

    def contiguous_ids(self) -> dict[int, tuple[bool, int]]:
        """Returns the table from category id in the JSON to (isthing, contiguous id)."""
        table = {i: (True, t) for t, i in enumerate(self.thing_ids)}
        table.update({i: (False, s) for s, i in enumerate(self.stuff_ids)})
        return table

    # -- requirements of models --------------------------------------------------------------------------------------

    def require_things(self, where: str = "the dataset") -> None:
        """Raises UserError if there is no thing class: a network with RoI heads cannot be trained without one."""
        if not self.thing_classes:
            raise UserError(
                f"{where} has no thing class: set isthing to 1 for at least one of its categories "
                f"(now: {_shorten(self.stuff_classes)})"
            )

    def require_stuff(self, where: str = "the dataset") -> None:
        """Raises UserError if there is no stuff class: a network with a stuff head cannot be trained without one."""
        if not self.stuff_classes:
            raise UserError(
                f"{where} has no stuff class: set isthing to 0 for at least one of its categories "
                f"(now: {_shorten(self.thing_classes)})"
            )

    # -- conversions -------------------------------------------------------------------------------------------------

    @classmethod
    def from_categories(cls, categories: Sequence[Mapping[str, Any]]) -> LabelSpace:
        """Builds the label space from the `categories` of a COCO panoptic JSON.

        Each category has `id` (int >= 0), `name`, `isthing` (0, 1, or bool), and optionally `color` (RGB in 0..255).
        Missing colors are generated deterministically. Raises UserError naming the invalid category.
        """
        if not isinstance(categories, Sequence) or isinstance(categories, str) or not categories:
            raise UserError("no categories: a COCO panoptic JSON needs a list `categories` with id, name and isthing")
        parsed = sorted((_parse_category(c) for c in categories), key=lambda c: c[0])
        _reject_duplicates("category id", [c[0] for c in parsed])
        colors = _fill_colors([c[3] for c in parsed])
        things = [(i, name, color) for (i, name, isthing, _), color in zip(parsed, colors, strict=True) if isthing]
        stuff = [(i, name, color) for (i, name, isthing, _), color in zip(parsed, colors, strict=True) if not isthing]
        thing_ids, thing_classes, thing_colors = zip(*things, strict=True) if things else ((), (), ())
        stuff_ids, stuff_classes, stuff_colors = zip(*stuff, strict=True) if stuff else ((), (), ())
        return cls(thing_classes, stuff_classes, thing_colors, stuff_colors, thing_ids, stuff_ids)

    def to_categories(self) -> list[dict[str, Any]]:
        """Returns the categories as plain Python for YAML and JSON, ascending by id; inverts `from_categories`."""
        rows = [
            {"id": int(i), "name": str(name), "isthing": isthing, "color": [int(v) for v in color]}
            for isthing, ids, names, colors in (
                (1, self.thing_ids, self.thing_classes, self.thing_colors),
                (0, self.stuff_ids, self.stuff_classes, self.stuff_colors),
            )
            for i, name, color in zip(ids, names, colors, strict=True)
        ]
        return sorted(rows, key=lambda row: row["id"])

    @classmethod
    def from_metadata(cls, meta: Any) -> LabelSpace:
        """Reads the label space from detectron2's `Metadata` as written by `apply_to_metadata`.

        Raises UserError if an entry is missing.
        """
        entries = {}
        for kind in ("thing", "stuff"):
            for key in (f"{kind}_classes", f"{kind}_dataset_id_to_contiguous_id"):
                if getattr(meta, key, None) is None:
                    raise UserError(
                        f"the metadata of dataset {getattr(meta, 'name', '?')!r} has no {key}: "
                        "register it with panoptic_fusion.data.register_panoptic"
                    )
            names = tuple(getattr(meta, f"{kind}_classes"))
            to_contiguous = getattr(meta, f"{kind}_dataset_id_to_contiguous_id")
            if sorted(to_contiguous.values()) != list(range(len(names))):
                raise UserError(
                    f"the metadata of dataset {getattr(meta, 'name', '?')!r} is not of panoptic_fusion's label space: "
                    f"{kind}_dataset_id_to_contiguous_id does not lead to 0..{len(names) - 1}"
                )
            ids = sorted(to_contiguous, key=to_contiguous.__getitem__)
            colors = getattr(meta, f"{kind}_colors", None) or [None] * len(names)
            entries[kind] = (names, list(colors), tuple(int(i) for i in ids))
        num_things = len(entries["thing"][0])
        colors = _fill_colors(entries["thing"][1] + entries["stuff"][1])
        return cls(
            entries["thing"][0],
            entries["stuff"][0],
            tuple(colors[:num_things]),
            tuple(colors[num_things:]),
            entries["thing"][2],
            entries["stuff"][2],
        )

    def apply_to_metadata(self, meta: Any) -> Any:
        """Writes classes, colors, id tables, and `ignore_label` to detectron2's `Metadata`; returns it.

        Raises UserError if `meta` already holds other values.
        """
        values = {
            "thing_classes": list(self.thing_classes),
            "stuff_classes": list(self.stuff_classes),
            "thing_colors": [list(c) for c in self.thing_colors],
            "stuff_colors": [list(c) for c in self.stuff_colors],
            "thing_dataset_id_to_contiguous_id": {i: t for t, i in enumerate(self.thing_ids)},
            "stuff_dataset_id_to_contiguous_id": {i: s for s, i in enumerate(self.stuff_ids)},
            "ignore_label": IGNORE_LABEL,
        }
        present = meta.as_dict()
        for key, value in values.items():
            if key in present and present[key] != value:
                raise UserError(f"the metadata of dataset {getattr(meta, 'name', '?')!r} has another {key} already")
        return meta.set(**values)


def _parse_category(category: Any) -> tuple[int, str, bool, Color | None]:
    """Parses one entry of `categories` to (id, name, isthing, color or None); ValueError names the problem."""
    if not isinstance(category, Mapping):
        raise UserError(f"a category must be a mapping with id, name and isthing, not {category!r}")
    for key in ("id", "name", "isthing"):
        if key not in category:
            raise UserError(f"category {dict(category)!r} has no {key}")
    category_id, name, isthing = category["id"], category["name"], category["isthing"]
    if not isinstance(category_id, Integral) or isinstance(category_id, bool) or not 0 <= category_id < 2**63:
        raise UserError(f"category {name!r}: the id must be an integer in [0, 2^63), not {category_id!r}")
    if not isinstance(name, str) or not name:
        raise UserError(f"category {category_id}: the name must be a text, not {name!r}")
    if not isinstance(isthing, Integral) or isthing not in (0, 1):
        raise UserError(f"category {name!r}: isthing must be 0 or 1, not {isthing!r}")
    color = category.get("color")
    if color is not None:
        if (
            not isinstance(color, Sequence)
            or len(color) != 3
            or not all(isinstance(v, Integral) and 0 <= v <= 255 for v in color)
        ):
            raise UserError(f"category {name!r}: the color must be three integers in 0..255, not {color!r}")
        color = tuple(int(v) for v in color)
    return int(category_id), name, bool(isthing), color


def _fill_colors(colors: Sequence[Sequence[int] | None]) -> list[Color]:
    """Replaces each None by a color that no other class has: hues in golden-ratio steps, deterministically."""
    filled = [None if c is None else tuple(int(v) for v in c) for c in colors]
    taken = {c for c in filled if c is not None} | {(0, 0, 0)}
    step = 0
    for index, color in enumerate(filled):
        while color is None:
            hue = step * 0.618033988749895 % 1.0
            saturation, value = ((0.65, 0.90), (0.90, 0.65), (0.45, 0.80))[step % 3]
            candidate = tuple(round(255 * v) for v in colorsys.hsv_to_rgb(hue, saturation, value))
            step += 1
            color = None if candidate in taken else candidate
        taken.add(color)
        filled[index] = color
    return filled


def _reject_duplicates(what: str, values: Iterable[Any]) -> None:
    seen = set()
    for value in values:
        if value in seen:
            raise UserError(f"{what} {value!r} occurs twice")
        seen.add(value)


def _shorten(names: Sequence[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
